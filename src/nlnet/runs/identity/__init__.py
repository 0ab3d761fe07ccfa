"""What makes a run the one it says it is: its code, its data, and that all of its ranks have the same."""
