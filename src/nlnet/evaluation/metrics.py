"""The metrics of a classification from the scores and targets of all its samples.

Functions alone: `nlnet-compare` and predictions need them without torchmetrics, whose import takes seconds.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nlnet.errors import UserError
from nlnet.evaluation.average_precision import all_videos_map, charades_average_precisions
from nlnet.text import shown

KINDS = ("multilabel", "multiclass")

Metrics = Mapping[str, Callable[[Tensor, Tensor], Tensor | float]]
"""Further metrics by name: (scores (N, K), targets) -> one number; targets as in `compute_metrics`."""


def compute_metrics(
    kind: str,
    scores_NK: Tensor,
    targets: Tensor,
    groups: Mapping[str, Sequence[int]] | None = None,
    further: Metrics | None = None,
) -> tuple[dict[str, Tensor], list[int]]:
    """The metrics of a kind of task, then the further ones; and the classes no sample has, left out of the mAP.

    multilabel: `mAP`, the Charades mean average precision (see `charades_map`); `all_videos_mAP`, which has the videos
    without any label as negatives, and `videos_without_label`, their number, where there are any; for every named group
    of classes `mAP_<group>`, part of the `mAP`, and `AUROC_<group>`.
    multiclass: `top1` and `top5`, fractions of samples whose class is among the highest 1 and 5.

    Shapes: scores (N, K); targets (N, K) of 0 and 1 for multilabel, (N,) of class indices for multiclass.
    Raises UserError where a further metric fails, gives no single number, or has the name of another.
    """
    if kind == "multiclass":
        metrics = {f"top{k}": value.double().mean() for k, value in hits(scores_NK, targets).items()}
        absent: list[int] = []
    else:
        metrics, absent = _multilabel(scores_NK, targets, groups or {})
    for name, metric in (further or {}).items():
        if name in metrics:
            raise UserError(f"task.metrics.{name}: there is a metric of this name already; choose another")
        metrics[name] = _number(name, metric(scores_NK, targets))
    return metrics, absent


def hits(scores_NK: Tensor, targets_N: Tensor) -> dict[int, Tensor]:
    """For k = 1, and 5 where there are more classes: (N,) whether fewer than k classes score as high as the target.

    Ties favor no class by its index: all of equal scores count as higher, and so do scores that are not a number.
    """
    own = scores_NK.gather(1, targets_N[:, None])
    as_high = (~(scores_NK < own)).sum(1) - 1
    return {k: as_high < k for k in (1, 5) if k == 1 or scores_NK.shape[1] > k}


def _multilabel(
    scores_NK: Tensor, targets_NK: Tensor, groups: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Tensor], list[int]]:
    precisions = charades_average_precisions(scores_NK, targets_NK)
    metrics = {"mAP": precisions.nanmean(), "all_videos_mAP": all_videos_map(scores_NK, targets_NK)}
    if empty := int((targets_NK == 0).all(1).sum()):
        metrics["videos_without_label"] = torch.tensor(float(empty))
    for name, classes in groups.items():
        from torchmetrics.functional.classification import binary_auroc  # here: its import takes seconds

        metrics[f"mAP_{shown(name)}"] = precisions[list(classes)].nanmean()
        mixed = [k for k in classes if 0 < targets_NK[:, k].mean() < 1]
        areas = [binary_auroc(scores_NK[:, k], targets_NK[:, k].long()) for k in mixed]
        metrics[f"AUROC_{shown(name)}"] = torch.stack(areas).mean() if areas else torch.tensor(float("nan"))
    return metrics, torch.nonzero(precisions.isnan()).flatten().tolist()


def _number(name: str, value: Tensor | float) -> Tensor:
    number = torch.as_tensor(value, dtype=torch.float64)
    if number.numel() != 1:
        raise UserError(f"task.metrics.{name}: gives {number.numel()} numbers, and a metric is one")
    return number.reshape(())
