"""LightningModules: a network with its loss, its metrics and its optimizer."""

from nlnet.tasks.classification import ClassificationTask

__all__ = ["ClassificationTask"]
