"""The ranks of a run watch each other: one that stops ends all of them, with its reason."""
