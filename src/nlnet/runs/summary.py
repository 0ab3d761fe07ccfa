"""`summary.json` and `config.yaml`: what ran, on what, with which result."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from nlnet.runs.accounting import Accounting
from nlnet.runs.identity import read_record, write_record

PACKAGES = ("nlnet", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "webdataset", "hydra-core", "av")


class Summary:
    """The record of one run, written when it begins and when it ends, however it ends."""

    def __init__(self, run_dir: Path, cfg: DictConfig, account: Accounting, task: Any) -> None:
        self.run_dir, self.account, self.task = run_dir, account, task
        self.main = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
        earlier = read_record(run_dir)
        self.seconds_before = float(earlier.get("seconds", 0)) if cfg.ckpt_path == "last" else 0.0
        self.record: dict[str, Any] = earlier | {
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
        if self.main:
            write_record(self.run_dir, self.record)

    def save_config(self, cfg: DictConfig) -> None:
        """Write the configuration in force, every interpolation resolved."""
        if self.main:
            (self.run_dir / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))

    def figures(self, trainer: pl.Trainer) -> dict[str, float]:
        """What the trainer last logged, and the best value of the monitored figure as `best`."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
                figures["best"] = float(callback.best_model_score)
        return figures

    def end(self, status: str, figures: dict[str, float], seconds: float) -> None:
        """Write the outcome, and what was read and skipped up to then."""
        if not self.main:
            return
        self.record = read_record(self.run_dir) | self.record | self.account.totals()
        self.record |= {
            "status": status,
            "seconds": round(self.seconds_before + seconds, 1),
            "best": figures.get("best"),
            "metrics": figures,
            "absent_classes": self.task.absent_classes() if figures else [],
        }
        write_record(self.run_dir, self.record)


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
