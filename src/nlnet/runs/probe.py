"""`extras.probe_data=true`: what a training would gain from data that were always there. Nothing of it is kept."""

import time
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from nlnet.config.resolve import changed
from nlnet.data.batches.base import Batch
from nlnet.distributed import print_once, world_size
from nlnet.errors import UserError
from nlnet.runs.callbacks.precise_bn import PreciseBatchNorm

STEPS = 24
"""Of each kind; the first third does not count: until then a batch may have been read ahead."""

_FEWEST = 4


def probing(cfg: DictConfig) -> DictConfig:
    """The settings of a run that makes these steps and writes no checkpoint.

    Raises UserError for one that goes on, or that trains nothing.
    """
    if cfg.ckpt_path or not cfg.train or cfg.test:
        raise UserError(
            "extras.probe_data=true: measures a new training and keeps nothing of it; leave out ckpt_path, test and"
            " train=false"
        )
    return changed(cfg, {"trainer.fast_dev_run": 2 * STEPS, "logger": None})


class ProbeData:
    """Gives a run's training data out as they come, and then the last batch again and again, and compares the steps.

    Args:
        data: the run's data module, whose training loader is taken over.
        trainer: the run's, which leaves the validation out, and the estimate of statistics at the end.
    """

    def __init__(self, data: Any, trainer: pl.Trainer) -> None:
        trainer.limit_val_batches = 0
        callbacks = [one for one in trainer.callbacks if not isinstance(one, PreciseBatchNorm)]  # type: ignore[attr-defined]
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
        self._make = data.train_dataloader
        self._loader: Any = None
        self._stamps: dict[str, list[float]] = {"as they come": [], "from memory": []}
        self._samples = 0
        data.train_dataloader = self._taken_over

    def result(self) -> dict[str, Any]:
        """Seconds a step and samples a second of each kind, and the share of the first that is for data."""
        if min(map(len, self._stamps.values())) < _FEWEST:
            raise UserError(
                f"extras.probe_data=true: the training data have fewer than {_FEWEST} batches, and nothing can be told"
            )
        seconds = {kind: _step(stamps) for kind, stamps in self._stamps.items()}
        come, memory = seconds.values()
        return {
            "seconds": {kind: round(value, 5) for kind, value in seconds.items()},
            "samples_per_second": {kind: round(self._samples / value, 3) for kind, value in seconds.items()},
            "data_share": round(max(0.0, 1 - memory / come), 4),
        }

    def totals(self) -> dict[str, Any]:
        """`probe`, for the record."""
        return {"probe": self.result()}

    def say(self) -> None:
        """Print it."""
        found = self.result()
        (come, memory), (rate, perfect) = found["seconds"].values(), found["samples_per_second"].values()
        print_once(
            f"probe_data: a step takes {come:.3g} s, and {memory:.3g} s with a batch that is in memory:"
            f" {found['data_share']:.0%} of the time is for data. A perfect loader would give {perfect:.3g} samples/s"
            f" instead of {rate:.3g}. Nothing was trained"
        )

    def _taken_over(self) -> "ProbeData":
        self._loader = self._make()
        return self

    def __len__(self) -> int:
        return 2 * STEPS

    def __iter__(self) -> Iterator[Batch]:
        batch: Batch | None = None
        come, memory = self._stamps.values()
        for step, batch in enumerate(self._loader):
            come.append(time.perf_counter())
            yield batch
            if step + 1 == STEPS:
                break
        if batch is None:
            return
        self._samples = len(batch["weights"]) * world_size()
        for _ in range(len(come)):
            memory.append(time.perf_counter())
            yield batch | {"reading": batch["reading"] | {"seconds": 0.0}}
        memory.append(time.perf_counter())


def _step(stamps: list[float]) -> float:
    """The mean time from one batch to the next, of those that count."""
    counted = stamps[(len(stamps) - 1) // 3 :]
    return (counted[-1] - counted[0]) / (len(counted) - 1)
