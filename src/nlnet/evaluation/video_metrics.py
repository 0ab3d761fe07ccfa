"""What a validation logs, computed over all videos at once and independent of batches and ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from nlnet.errors import UserError
from nlnet.evaluation.metrics import KINDS, Metrics, compute_metrics
from nlnet.text import shown


class VideoMetrics(Metric):
    """Gathers (index, score, target) of every video and computes `compute_metrics` of them, and `videos`, their number.

    For every subset also the metrics that compare its videos among themselves: `top1_<subset>`, or for multilabel
    `AUROC_<group>_<subset>`.

    The videos are sorted by index before anything is computed, so the result is bit-equal on any number of ranks.

    Args:
        kind: "multilabel" or "multiclass".
        groups: named sets of class indices that are reported apart.
        further: further metrics by name.
        subsets: named sets of indices of videos that are reported apart.

    Raises UserError for a further metric that is no function.
    """

    full_state_update = False
    indices: list[Tensor]
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(
        self,
        kind: str,
        groups: Mapping[str, Sequence[int]] | None = None,
        further: Metrics | None = None,
        subsets: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}; known: {', '.join(KINDS)}")
        for name, metric in dict[str, Any](further or {}).items():
            if not callable(metric):
                expected = "a function of scores and targets, as {_target_: package.function, _partial_: true}"
                raise UserError(f"task.metrics.{name}={metric!r}: expected {expected}")
        self.kind, self.groups, self.further = kind, dict(groups or {}), dict(further or {})
        self.subsets = dict(subsets or {})
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
        indices, scores, targets = self.videos()
        metrics, absent = compute_metrics(self.kind, scores, targets, self.groups, self.further)
        self.note_absent(absent)
        for name, members in self.subsets.items():
            rows = torch.isin(indices, torch.tensor(members))
            if rows.any():
                of_subset, _ = compute_metrics(self.kind, scores[rows], targets[rows], self.groups)
                metrics |= {f"{key}_{shown(name)}": of_subset[key] for key in self._compared()}
        return metrics | {"videos": torch.tensor(float(len(scores)))}

    def note_absent(self, classes: Sequence[int]) -> None:
        """These classes had no positive in the last evaluation."""
        self.absent_classes = list(classes)

    def subset_names(self) -> list[str]:
        """The metrics of the subsets."""
        return [f"{key}_{shown(name)}" for name in self.subsets for key in self._compared()]

    def _compared(self) -> list[str]:
        return ["top1"] if self.kind == "multiclass" else [f"AUROC_{shown(group)}" for group in self.groups]
