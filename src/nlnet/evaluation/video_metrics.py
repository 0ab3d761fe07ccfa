"""What a validation logs, computed over all videos at once and independent of batches and ranks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from nlnet.evaluation.metrics import KINDS, Metrics, compute_metrics


class VideoMetrics(Metric):
    """Gathers (index, score, target) of every video and computes `compute_metrics` of them, and `videos`, their number.

    The videos are sorted by index before anything is computed, so the result is bit-equal on any number of ranks.

    Args:
        kind: "multilabel" or "multiclass".
        groups: named sets of class indices that are reported apart.
        further: further metrics by name.
    """

    full_state_update = False
    indices: list[Tensor]
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(
        self, kind: str, groups: Mapping[str, Sequence[int]] | None = None, further: Metrics | None = None
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}; known: {', '.join(KINDS)}")
        self.kind, self.groups, self.further = kind, dict(groups or {}), dict(further or {})
        self.absent_classes: list[int] = []  # of the last computation: without a positive, so not in the mAP
        for name in ("indices", "scores", "targets"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, indices: Tensor, scores: Tensor, targets: Tensor) -> None:
        self.indices.append(indices)
        self.scores.append(scores.float())
        self.targets.append(targets)

    def videos(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices, scores and targets of all videos, by index, on the CPU."""
        indices = dim_zero_cat(self.indices).cpu()
        order = torch.argsort(indices)
        return indices[order], dim_zero_cat(self.scores).cpu()[order], dim_zero_cat(self.targets).cpu()[order]

    def compute(self) -> dict[str, Tensor]:
        _, scores, targets = self.videos()
        metrics, absent = compute_metrics(self.kind, scores, targets, self.groups, self.further)
        self.note_absent(absent)
        return metrics | {"videos": torch.tensor(float(len(scores)))}

    def note_absent(self, classes: Sequence[int]) -> None:
        """These classes had no positive in the last evaluation."""
        self.absent_classes = list(classes)
