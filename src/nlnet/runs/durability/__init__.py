"""What keeps a run from losing what it has saved: checkpoints, their restoring, one process group in a folder."""
