"""What every task is: a network with its optimiser, and an evaluation that no rank leaves before the others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nlnet.tasks.parameter_groups import parameter_groups
from nlnet.tasks.total_steps import total_steps

Batch = dict[str, Any]


class Task(pl.LightningModule):
    """Base of the tasks, which say what a step is, and what is reported of an evaluation.

    Args:
        net: the network.
        kind: what is learnt, a word that the command line knows.
        monitor: the figure that decides which checkpoint is best, and that a sweep optimises.
        classes: the names of the classes.
        optimizer: parameter groups -> optimiser.
        schedule: (optimiser, total steps) -> scheduler, stepped at every optimiser step.
        undecayed: which parameters weight decay leaves alone, a word of `nlnet.tasks.parameter_groups`.
        max_missing_eval: how many validation samples may be unreadable before validation stops.
        settings: plain types, saved with every checkpoint and logged as hyper-parameters.
    """

    def __init__(
        self,
        net: nn.Module,
        kind: str,
        *,
        monitor: str,
        classes: Sequence[str],
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler],
        undecayed: str = "norms_and_biases",
        max_missing_eval: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(dict(settings or {}))
        self.net, self.kind, self.monitor, self.classes = net, kind, monitor, tuple(classes)
        self.max_missing_eval = max_missing_eval
        self._optimizer, self._schedule, self._undecayed = optimizer, schedule, undecayed
        self._failed: list[tuple[str, str]] = []

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self._optimizer(parameter_groups(self.net, self._undecayed))
        schedule = self._schedule(optimizer, total_steps=total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_epoch_start(self) -> None:
        self.forget()

    def on_test_epoch_start(self) -> None:
        self.forget()

    def on_validation_epoch_end(self) -> None:
        self.report("val")

    def on_test_epoch_end(self) -> None:
        self.report("test")

    def forget(self) -> None:
        """Begin an evaluation."""
        self._failed = []

    def report(self, stage: str) -> None:
        """Log the figures of the evaluation that ends, under `stage`/. Called on every rank."""
        raise NotImplementedError

    def absent_classes(self) -> list[str]:
        """Names of the classes that no sample of the last evaluation has; mean average precision leaves them out."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classes"] = list(self.classes)  # for predictions, which have no shards to read them from
