"""Readers of other programs' checkpoints, one a program."""
