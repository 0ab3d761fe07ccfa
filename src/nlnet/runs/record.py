"""`summary.json` and `config.yaml`: what ran, on what, with which result."""

import math
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from nlnet.distributed import is_first, print_once
from nlnet.errors import UserError
from nlnet.runs.build import plain_settings
from nlnet.runs.continuing.point import swept, typed_words
from nlnet.runs.file_names import CONFIG
from nlnet.runs.identity.code import git_revision
from nlnet.runs.run_dir import mark_failed, read_record, write_record
from nlnet.saving import CannotWrite, write_bytes
from nlnet.tasks.task import Task

PACKAGES = ("nlnet", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "webdataset", "hydra-core", "av")


class Measured(Protocol):
    """What knows figures of a run."""

    def totals(self) -> dict[str, Any]:
        """Entries of the record."""
        ...


class RunRecord:
    """The record of one run, written when it begins and when it ends, however it ends.

    Args:
        folder: of the run.
        cfg: the configuration in force.
        measured: whose `totals` belong to it: what was read, how fast it went.
        task: whose monitor and classes it names.
        started: `time.monotonic()` at the start.
        costs: the network's `parameters`, and its `gmacs` for one sample where these can be counted.
    """

    def __init__(
        self,
        folder: Path,
        cfg: DictConfig,
        measured: Sequence[Measured],
        task: Task,
        started: float,
        costs: Mapping[str, float],
    ) -> None:
        self.folder, self.cfg, self.task, self._started = folder, cfg, task, started
        self.measured = list(measured)
        earlier = read_record(folder)
        seconds = earlier.get("seconds") if cfg.ckpt_path == "last" else None
        self._seconds_before = seconds if isinstance(seconds, int | float) and 0 <= seconds < 1e12 else 0.0
        earlier.pop("reason", None)  # of the end that this run continues after
        self._content: dict[str, Any] = earlier | {
            "status": "running",
            "task_name": cfg.task_name,
            "experiment": cfg.experiment_name,
            "size": cfg.size_name,
            "demo": cfg.demo,
            "tags": [*cfg.tags, *(["demo"] if cfg.demo else [])],
            "seed": cfg.seed,
            "point": swept(),
            "words": typed_words(),
            "git": git_revision(),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "monitor": task.monitor,
            **costs,
        }
        self._costs = costs

    def begin(self) -> None:
        """Write the record, so that the run can be found while it is under way, and the configuration in force, every
        interpolation resolved."""
        if not is_first():
            return
        write_record(self.folder, self._content)
        try:
            write_bytes(self.folder / CONFIG, settings_yaml(self.cfg).encode())
        except CannotWrite:
            self.end_early("failed", {})
            raise

    def figures(self) -> dict[str, Any]:
        """What a report needs to know besides settings and metrics, for W&B's summary of the run."""
        return {"monitor": self.task.monitor, "seconds": self._seconds(), **self._costs}

    def _seconds(self) -> float:
        return round(self._seconds_before + time.monotonic() - self._started, 1)

    def end(
        self,
        status: str,
        metrics: dict[str, float],
        reason: BaseException | None = None,
        *,
        best: Path | None = None,
    ) -> None:
        """Write the outcome, what was read and skipped up to then, why the run failed where it did, and which file of
        its checkpoints is the `best`."""
        if not is_first():
            return
        self._content = read_record(self.folder) | self._content
        for one in self.measured:
            self._content |= one.totals()
        self._content |= {
            "status": status,
            "seconds": self._seconds(),
            "best": _plain(metrics.get("best")),
            "metrics": {name: _plain(value) for name, value in metrics.items()},
            "absent_classes": self.task.absent_classes() if metrics else [],
            "rules": self.task.rules() if metrics else {},
        }
        if best is not None and best.parent == self.folder / "checkpoints":
            self._content["best_checkpoint"] = best.name
        if reason is not None:
            self._content["reason"] = _words(reason)
        write_record(self.folder, self._content)

    def end_early(self, status: str, metrics: dict[str, float], reason: BaseException | None = None) -> None:
        """Write the outcome as far as the disk takes it; the error that ended the run is the one to be told."""
        try:
            self.end(status, metrics, reason)
        except CannotWrite as error:
            if not mark_failed(self.folder):
                print_once(f'note: {error}; it still says "running"')


def settings_yaml(cfg: DictConfig) -> str:
    """The configuration as YAML, every interpolation resolved and every secret masked."""
    return OmegaConf.to_yaml(OmegaConf.create(plain_settings(cfg)))


def _plain(value: float | None) -> float | None:
    """A number that JSON has: a metric of nothing (an area under a curve without positives) is null there."""
    return value if value is not None and math.isfinite(value) else None


def _words(error: BaseException) -> str:
    lines = str(error).splitlines() or [""]
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}"


def logged_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """What the trainer last logged, and the best value of the monitored metric as `best`."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
            metrics["best"] = float(callback.best_model_score)
    return metrics
