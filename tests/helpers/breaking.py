"""Losses, networks and callbacks that break a training in one chosen way."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from nlnet.tasks.task import Task


def flat_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Zero, and its gradient 0 / 0: a loss that is finite while its gradients are not."""
    return (logits - logits.detach()).square().sum(1).sqrt()


def frozen_infinity(logits: Tensor, targets: Tensor) -> Tensor:
    """Infinite, and its gradients those of the cross-entropy: they are all finite."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1) + torch.inf


class Spoil(Callback):
    """Puts NaN into the network at a moment: a weight, a statistic, or what it says of a sample."""

    def __init__(self, what: str, step: int = 1) -> None:
        self.what, self.step = what, step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step and self.what == "weight":
            with torch.no_grad():
                next(pl_module.net.parameters()).view(-1)[0] = torch.nan
        if trainer.global_step == self.step and self.what == "statistic":
            pl_module.net.stem.bn.running_var[0] = torch.inf

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        if self.what == "score":  # of the third sample of the batch, on its way through the network
            batch["inputs"][2] = torch.nan


class Norms(Task):
    """A task of somebody's own: the network's outputs become small. Its metric takes NaN for a figure."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.net(batch["inputs"]).square().mean()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._small = (self.net(batch["inputs"]) < 1).double().mean()

    def log_metrics(self, stage: str) -> None:
        self.log(f"{stage}/small", self._small)


class SpoilRank(Callback):
    """The first batch of rank 1 holds an infinite clip."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1:
            batch["inputs"][0] = torch.inf


def halving(optimizer: torch.optim.Optimizer, total_steps: int) -> Any:
    """A schedule that knows its last rate alone: half of it at every step."""
    return torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda _: 0.5)
