"""What every task is: a network with its optimizer, and an evaluation that no rank leaves before the others."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nlnet.distributed import gather
from nlnet.errors import UserError
from nlnet.evaluation.predictions import Predictions
from nlnet.evaluation.views import Views
from nlnet.optim.parameter_groups import parameter_groups, scale_rates
from nlnet.optim.total_steps import total_steps
from nlnet.renamed import current_checkpoint
from nlnet.tasks.missing import check_missing, first_errors

Batch = dict[str, Any]

_LESS_IS_BETTER = {"loss", "error", "errors", "err", "mae", "mse", "rmse", "nll", "perplexity", "ece", "brier", "fpr"}


def less_is_better(metric: str) -> bool:
    """Whether the lowest of a metric is the best, by the words of its name: `val/loss`, `val/top1_error`."""
    return not _LESS_IS_BETTER.isdisjoint(re.split(r"[^a-z0-9]+", metric.lower()))


class Task(pl.LightningModule):
    """Base of the tasks, which say what a step is and which metrics an evaluation logs.

    A run asks the class for what depends on the data (`network_arguments`, `data_arguments` and so on) before it makes
    the network and the task; docs/extending.md goes through a task of one's own.

    Args:
        net: the network.
        kind: what is learned, a word that the command line knows.
        monitor: the metric that decides which checkpoint is best, and that a sweep optimizes.
        classes: the names of the classes.
        optimizer: parameter groups -> optimizer.
        schedule: (optimizer, total steps) -> scheduler, stepped at every optimizer step.
        no_weight_decay: which parameters weight decay leaves alone, a word of `nlnet.optim.parameter_groups`.
        bias_lr_factor: the rate of biases as a multiple of the optimizer's.
        max_missing_eval: how many validation samples may be unreadable before validation stops.
        settings: plain types, saved with every checkpoint and logged as hyper-parameters.
    """

    samples: ClassVar[str] = "videos"
    """What a sample is called in messages and metrics."""

    outputs: ClassVar[Mapping[str, str]] = {}
    """Files that its runs leave besides those of every run, and what is in them."""

    predictor: ClassVar[str | None] = None
    """The function (`package.module.name`) that `src/predict.py` calls for its checkpoints: see `nlnet.prediction`."""

    def __init__(
        self,
        net: nn.Module,
        kind: str,
        *,
        monitor: str,
        classes: Sequence[str],
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler],
        no_weight_decay: str = "norms_and_biases",
        bias_lr_factor: float = 1.0,
        max_missing_eval: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(dict(settings or {}))
        self.net, self.kind, self.monitor, self.classes = net, kind, monitor, tuple(classes)
        self.max_missing_eval = max_missing_eval
        self._optimizer, self._schedule = optimizer, schedule
        self._no_weight_decay, self._bias_lr_factor = no_weight_decay, bias_lr_factor
        self._failed: list[tuple[str, str]] = []
        self._errors: dict[str, str] = {}

    # ---- what a run asks the class before there is a task

    @classmethod
    def network_arguments(cls, data: Any) -> dict[str, Any]:
        """What the network has to know of the data, by the names of its arguments."""
        return {"num_classes": len(data.classes)}

    @classmethod
    def data_arguments(cls, data: Any) -> dict[str, Any]:
        """What the task has to know of the data, by the names of its arguments."""
        return {"classes": list(data.classes), "max_missing_eval": data.max_missing_eval}

    @classmethod
    def check_kind(cls, kind: str, data: Any) -> None:
        """Raises UserError where the data are for another kind of task."""

    @classmethod
    def check(cls, net: nn.Module, data: Any) -> None:
        """Raises UserError where the network predicts what the data do not have."""

    @classmethod
    def initial_weights(cls, net: nn.Module, init: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
        """Fill a new network as `init` of the configuration says; returns what to print about it.

        Raises UserError where weights are needed and none are named.
        """
        return []

    @classmethod
    def plan_evaluation(cls, protocol: DictConfig, data: Mapping[str, Any]) -> Views | None:
        """The views of a test; None for the validation of training, the only test that every task has.

        Raises UserError for a protocol that is not for this task, or cannot be.
        """
        if protocol.name != "center":
            raise UserError(
                f"protocol={protocol.name} is a test of videos, and this run is of {cls.samples}; leave it out"
            )
        return None

    # ---- what a run asks the task

    @property
    def scorers(self) -> Sequence[nn.Module]:
        """The modules whose outputs become scores: an evaluation in which one of them is not finite is stopped."""
        return [self.net]

    @property
    def called_modules(self) -> Sequence[nn.Module]:
        """The parts of the network that a step calls, all of it together; the first one is what `compile` compiles."""
        return [self.net]

    def model_summary(self, data: Any) -> tuple[list[str], dict[str, float]]:
        """Lines to print before anything is trained: what the network is and costs, what is odd about the data. And the
        costs as `summary.json` has them: `parameters`, and the `gmacs` of one sample where these can be counted."""
        parameters = sum(parameter.numel() for parameter in self.net.parameters())
        return [f"{type(self.net).__name__}: {parameters / 1e6:.2f} M parameters"], {"parameters": parameters}

    def evaluate(
        self, trainer: pl.Trainer, data: pl.LightningDataModule, protocol: DictConfig, views: Views | None
    ) -> Predictions | None:
        """Validate; returns the scores of every sample where the run is to write them."""
        trainer.validate(self, data, verbose=False)
        return None

    def reset(self) -> None:
        """Begin an evaluation."""
        self._failed, self._errors = [], {}

    def log_metrics(self, stage: str) -> None:
        """Log the metrics of the evaluation that ends, under `stage`/. Called on every rank."""
        raise NotImplementedError

    def log_same(self, metrics: Mapping[str, Any]) -> None:
        """Log metrics of an evaluation that every rank has with the same value, as they are; called on every rank.

        The largest of equal values is that value, where a mean over ranks would round it.
        """
        self.log_dict(dict(metrics), batch_size=1, sync_dist=True, reduce_fx="max")

    def metric_names(self) -> list[str] | None:
        """What an evaluation logs under `stage`/, where that is known before there was one; else None."""
        return None

    def absent_classes(self) -> list[str]:
        """Names of the classes that no sample of the last evaluation has; mean average precision leaves them out."""
        return []

    def rules(self) -> dict[str, str]:
        """What a metric of the last evaluation is, by its name, where programs differ in it."""
        return {}

    # ---- Lightning's hooks

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        groups = parameter_groups(self.net, self._no_weight_decay, self._bias_lr_factor)
        optimizer = scale_rates(self._optimizer(groups))
        schedule = self._schedule(optimizer, total_steps=total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_epoch_start(self) -> None:
        self.reset()

    def on_test_epoch_start(self) -> None:
        self.reset()

    def on_validation_epoch_end(self) -> None:
        self.log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self.log_metrics("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classes"] = list(self.classes)  # for predictions, which have no shards to read them from

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(current_checkpoint(checkpoint))  # before the callbacks get their states

    def note_failures(self, batch: Batch) -> None:
        """Remember the samples of an evaluation's batch that could not be read."""
        self._failed += batch["failures"]
        self._errors = batch.get("errors", {}) | self._errors

    def failures(self) -> list[tuple[str, str]]:
        """(key, cause) of the samples of this evaluation that could not be read, on all ranks.

        Raises UserError where they are more than `max_missing_eval`.
        """
        of_ranks = gather((self._failed, self._errors))
        failed = sorted(failure for of_rank, _ in of_ranks for failure in of_rank)
        if not self.trainer.sanity_checking:
            errors = first_errors(errors for _, errors in of_ranks)
            check_missing(failed, self.max_missing_eval, self.samples, errors)
        return failed
