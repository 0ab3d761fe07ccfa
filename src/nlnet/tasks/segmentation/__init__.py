"""Semantic segmentation: a class for every pixel."""

from nlnet.tasks.segmentation.task import SegmentationTask

__all__ = ["SegmentationTask"]
