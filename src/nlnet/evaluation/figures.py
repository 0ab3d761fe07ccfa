"""The figures of a task from the scores and targets of all its samples."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nlnet.evaluation.average_precision import class_average_precisions

KINDS = ("multilabel", "multiclass")


def figures(
    kind: str, scores_NK: Tensor, targets: Tensor, groups: Mapping[str, Sequence[int]] | None = None
) -> tuple[dict[str, Tensor], list[int]]:
    """What `nlnet.evaluation.metrics.VideoMetrics` reports, and the classes that no sample has, left out of the mAP.

    Shapes: scores (N, K); targets (N, K) of 0 and 1 for multilabel, (N,) of class indices for multiclass.
    """
    if kind == "multiclass":
        return {f"top{k}": value.double().mean() for k, value in hits(scores_NK, targets).items()}, []
    precisions = class_average_precisions(scores_NK, targets)
    result = {"mAP": precisions.nanmean()}
    for name, classes in (groups or {}).items():
        from torchmetrics.functional.classification import binary_auroc  # here: its import takes seconds

        result[f"mAP_{name}"] = precisions[list(classes)].nanmean()
        areas = [binary_auroc(scores_NK[:, k], targets[:, k].long()) for k in classes if 0 < targets[:, k].mean() < 1]
        result[f"AUROC_{name}"] = torch.stack(areas).mean() if areas else torch.tensor(float("nan"))
    return result, torch.nonzero(precisions.isnan()).flatten().tolist()


def hits(scores_NK: Tensor, targets_N: Tensor) -> dict[int, Tensor]:
    """For k = 1, and 5 where there are more classes: (N,) whether fewer than k classes score as high as the target.

    Ties favour no class by its index: all of equal scores count as higher, and so do scores that are not a number.
    """
    own = scores_NK.gather(1, targets_N[:, None])
    as_high = (~(scores_NK < own)).sum(1) - 1
    return {k: as_high < k for k in (1, 5) if k == 1 or scores_NK.shape[1] > k}
