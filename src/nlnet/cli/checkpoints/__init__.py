"""Commands that read a checkpoint and write another file."""
