"""What a run leaves: its best checkpoint, its curves, its last words."""
