"""`summary.json` and `config.yaml`: what ran, on what, with which result."""

import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from nlnet.distributed import is_first
from nlnet.runs.callbacks.sample_counter import SampleCounter
from nlnet.runs.run_dir import read_record, write_record
from nlnet.tasks.task import Task

PACKAGES = ("nlnet", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "webdataset", "hydra-core", "av")


class RunRecord:
    """The record of one run, written when it begins and when it ends, however it ends.

    Args:
        folder: of the run.
        cfg: the configuration in force.
        counter: what was read.
        task: whose monitor and classes it names.
        started: `time.monotonic()` at the start.
    """

    def __init__(self, folder: Path, cfg: DictConfig, counter: SampleCounter, task: Task, started: float) -> None:
        self.folder, self.cfg, self.counter, self.task, self._started = folder, cfg, counter, task, started
        earlier = read_record(folder)
        self._seconds_before = float(earlier.get("seconds", 0)) if cfg.ckpt_path == "last" else 0.0
        self._content: dict[str, Any] = earlier | {
            "status": "running",
            "task_name": cfg.task_name,
            "experiment": cfg.experiment_name,
            "size": cfg.size_name,
            "demo": cfg.demo,
            "tags": [*cfg.tags, *(["demo"] if cfg.demo else [])],
            "seed": cfg.seed,
            "git": git_revision(),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "monitor": task.monitor,
        }

    def begin(self) -> None:
        """Write the record, so that the run can be found while it is under way."""
        if is_first():
            write_record(self.folder, self._content)

    def save_config(self) -> None:
        """Write the configuration in force, every interpolation resolved."""
        if is_first():
            (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(self.cfg, resolve=True))

    def end(self, status: str, metrics: dict[str, float]) -> None:
        """Write the outcome, and what was read and skipped up to then."""
        if not is_first():
            return
        seconds = self._seconds_before + time.monotonic() - self._started
        self._content = read_record(self.folder) | self._content | self.counter.totals()
        self._content |= {
            "status": status,
            "seconds": round(seconds, 1),
            "best": metrics.get("best"),
            "metrics": metrics,
            "absent_classes": self.task.absent_classes() if metrics else [],
        }
        write_record(self.folder, self._content)


def logged_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """What the trainer last logged, and the best value of the monitored metric as `best`."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
            metrics["best"] = float(callback.best_model_score)
    return metrics


def git_revision() -> str | None:
    """The checkout's commit, with `+changes` where it has any; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return revision + ("+changes" if _git(here, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
