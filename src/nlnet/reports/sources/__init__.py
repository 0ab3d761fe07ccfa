"""Where the runs of a report are from: folders, and projects of W&B."""
