"""Video classification: multi-label (Charades) and multi-class (Kinetics)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from nlnet.errors import UserError
from nlnet.evaluation.metrics import VideoMetrics
from nlnet.tasks.missing import beside, check_missing
from nlnet.tasks.ranks import gather, sum_over_ranks, world_size
from nlnet.tasks.task import Batch, Task


class ClassificationTask(Task):
    """A network, its loss and its metrics.

    multilabel: loss is the mean over classes of the sigmoid cross-entropy, scores are sigmoids (paper section 5.2).
    multiclass: softmax cross-entropy and softmax scores (section 4).

    The loss is sum_b w_b l_b / sum_b w_b over the batch of *all* ranks, where w_b is 0 for a sample that could not be
    read: a rank whose whole share failed contributes nothing and changes nothing for the others.

    Args:
        net: (B, 3, T, H, W) -> (B, classes) logits.
        kind: "multilabel" or "multiclass".
        groups: named sets of class indices that are reported apart.
        shared: classes, optimiser and what else every task has; see `Task`.
    """

    def __init__(
        self,
        net: nn.Module,
        kind: str,
        *,
        groups: Mapping[str, Sequence[int]],
        **shared: Any,
    ) -> None:
        super().__init__(net, kind, **shared)
        self.metrics, self.eval_loss = VideoMetrics(kind, groups), MeanMetric()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        weights = batch["weights"]
        total = sum_over_ranks(weights.sum())
        losses = self._losses(self(batch["inputs"]), batch["targets"])
        # DDP averages gradients over the ranks; times the number of ranks it is the sum over the global batch.
        loss = (weights * losses).sum() * world_size() / total.clamp(min=1)
        self.log("train/loss", sum_over_ranks(loss.detach()) / world_size(), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def forget(self) -> None:
        super().forget()
        self.metrics.reset()
        self.eval_loss.reset()

    def report(self, stage: str) -> None:
        failed = sorted(failure for share in gather(self._failed) for failure in share)
        if not self.trainer.sanity_checking:
            check_missing(failed, self.max_missing_eval)
        figures = self.metrics.compute() | {"loss": self.eval_loss.compute()}
        if failed:  # beside the others, so that nobody takes them for those of all videos
            figures["videos_missing"] = torch.tensor(float(len(failed)))
            self.print(f"{stage}: {beside(int(figures['videos']), failed)}")
        self.log_dict({f"{stage}/{name}": value.float() for name, value in figures.items()})

    def absent_classes(self) -> list[str]:
        return [self.classes[k] for k in self.metrics.absent_classes]

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if self.kind == "multilabel":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        return F.cross_entropy(logits, targets, reduction="none")

    def _evaluate(self, batch: Batch) -> None:
        self._failed += batch["failures"]
        real = batch["weights"] > 0
        logits = self(batch["inputs"])[real].float()
        targets = batch["targets"][real]
        self.eval_loss.update(self._losses(logits, targets))
        scores = logits.sigmoid() if self.kind == "multilabel" else logits.softmax(1)
        self.metrics.update(batch["indices"][real], scores, targets)


def check_kind(kind: str, task: str, where: str) -> None:
    """Refuse to train softmax on multi-label shards or the other way round."""
    if kind != task:
        raise UserError(f"task.kind={kind}, but the shards in {where} are {task}; set task={task}")
