"""A sweep's file, as W&B has it, run on this machine without W&B."""
