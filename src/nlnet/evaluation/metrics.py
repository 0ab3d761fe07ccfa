"""What a validation reports, computed over all videos at once and independent of batches and ranks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from nlnet.evaluation.figures import KINDS, figures


class VideoMetrics(Metric):
    """Gathers (index, score, target) of every video and reports the figures of its kind of task.

    Always `videos`, their number. multilabel: `mAP`, the Charades mean average precision; for every named group of
    classes `mAP_<group>` and `AUROC_<group>`. multiclass: `top1` and `top5`, shares of videos whose class is among the
    highest 1 and 5 scores.

    The videos are sorted by index before anything is computed, so the result is bit-equal on any number of ranks.
    """

    full_state_update = False
    indices: list[Tensor]
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self, kind: str, groups: Mapping[str, Sequence[int]] | None = None) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}; known: {', '.join(KINDS)}")
        self.kind, self.groups = kind, dict(groups or {})
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
        result, self.absent_classes = figures(self.kind, scores, targets, self.groups)
        return result | {"videos": torch.tensor(float(len(scores)))}
