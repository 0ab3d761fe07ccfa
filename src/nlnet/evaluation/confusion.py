"""Metrics of segmentation, all of them from one matrix of counts."""

import torch
from torch import Tensor


def confusion(targets: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64: how many pixels of class i (row) are taken for class j (column).

    Pixels whose target is no class, such as those to ignore, are not counted. Matrices of parts of a data set add up to
    that of the whole.

    >>> import torch
    >>> confusion(torch.tensor([0, 1, 1, 255]), torch.tensor([0, 1, 0, 0]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    counted = (targets >= 0) & (targets < num_classes)
    pairs = targets[counted].long() * num_classes + predictions[counted].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def class_ious(matrix: Tensor) -> Tensor:
    """(K,) float64: of each class the pixels that are it and taken for it, over those that are either.

    NaN for a class that no pixel is, and none is taken for.
    """
    hits, either = matrix.diagonal().double(), (matrix.sum(0) + matrix.sum(1) - matrix.diagonal()).double()
    return hits / either


def class_accuracies(matrix: Tensor) -> Tensor:
    """(K,) float64: of the pixels of each class the fraction that is taken for it; NaN for one that no pixel is."""
    return matrix.diagonal().double() / matrix.sum(1).double()


def segmentation_metrics(matrix: Tensor) -> dict[str, float]:
    """`mIoU`, the mean of the IoUs of the classes that have one; `mAcc`, that of the accuracies; `pixel_accuracy`."""
    return {
        "mIoU": float(class_ious(matrix).nanmean()),
        "mAcc": float(class_accuracies(matrix).nanmean()),
        "pixel_accuracy": float(matrix.diagonal().sum().double() / matrix.sum().double()),
    }
