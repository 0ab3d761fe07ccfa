"""LightningModules: a network with its loss, its metrics and its optimiser."""

from nlnet.tasks.classification import ClassificationTask

__all__ = ["ClassificationTask"]
