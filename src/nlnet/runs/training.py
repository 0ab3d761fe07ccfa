"""A training from its configuration to its last words."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from nlnet.errors import RunInterrupted
from nlnet.runs import checkpoint as checkpoints
from nlnet.runs.accounting import Accounting
from nlnet.runs.curves import draw
from nlnet.runs.introduction import introduce
from nlnet.runs.loggers import finish
from nlnet.runs.metrics_csv import MetricsCsv
from nlnet.runs.quiet import quiet
from nlnet.runs.resume import ExactResume
from nlnet.runs.setup import make_data, make_run_dir, make_task, make_trainer
from nlnet.runs.summary import Summary


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Train as `cfg` says (see `nlnet.runs.demo.load`).

    Returns the figures of the last validation (and of the best one's monitored figure as `best`), and the objects:
    `run_dir`, `trainer`, `task`, `data`.
    """
    if cfg.extras.print_config:
        say(OmegaConf.to_yaml(cfg, resolve=True))
    quiet(keep_log=bool(cfg.trainer.get("profiler")))
    started = time.monotonic()
    if cfg.extras.threads:
        torch.set_num_threads(cfg.extras.threads)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = make_data(cfg)
    task = make_task(cfg, data)
    for line in introduce(task, data):
        say(line)
    run_dir = make_run_dir(cfg)
    resume_from = _checkpoint_to_resume(cfg, run_dir, task)

    resume = ExactResume(run_dir / "checkpoints", cfg.seed, cfg.extras.checkpoint_every_n_steps)
    metrics = MetricsCsv(run_dir / "metrics.csv", cfg.trainer.log_every_n_steps)
    account = Accounting(data.max_skipped, data.max_consecutive_failures)
    summary = Summary(run_dir, cfg, account, task)
    summary.begin()
    trainer = make_trainer(cfg, [account, metrics, resume])
    summary.save_config(cfg)

    figures: dict[str, float] = {}
    try:
        if cfg.train:
            trainer.fit(task, datamodule=data, ckpt_path=resume_from, weights_only=True)
            reported = resume.validated_step == trainer.global_step and task.monitor in trainer.callback_metrics
            if trainer.enable_validation and not reported:
                # The last steps are not at an epoch's end, or a resume found all steps done: validated or cut short.
                trainer.validate(task, datamodule=data, verbose=False)
                _keep_if_best(trainer, resume.path)
        figures = summary.figures(trainer)
        if cfg.test:
            best = run_dir / "checkpoints" / "best.ckpt"
            trainer.test(task, data, ckpt_path=best if best.is_file() else None, weights_only=True, verbose=False)
            figures |= summary.figures(trainer)
    except RunInterrupted:
        summary.end("interrupted", figures, time.monotonic() - started)
        raise
    except BaseException:
        summary.end("failed", figures, time.monotonic() - started)
        raise
    finally:
        finish()
        data.close()
    summary.end("finished", figures, time.monotonic() - started)
    if trainer.is_global_zero and not cfg.trainer.get("fast_dev_run"):
        draw(metrics.path, task.monitor, run_dir / "curves.png", run_dir.name)
        report(figures, task, run_dir)
    return figures, {"run_dir": run_dir, "trainer": trainer, "task": task, "data": data}


def _checkpoint_to_resume(cfg: DictConfig, run_dir: Path, task: pl.LightningModule) -> Path | None:
    if not cfg.ckpt_path:
        return None
    path = run_dir / "checkpoints" / "last.ckpt" if cfg.ckpt_path == "last" else Path(cfg.ckpt_path)
    checkpoint = checkpoints.read(path)
    checkpoints.check_fits(checkpoint, task.state_dict(), path)
    changed = checkpoints.differences(checkpoint, cfg)
    if changed:
        say(f"continuing with settings that differ from the checkpoint's: {', '.join(changed)}")
    say(f"continuing {path} after step {checkpoint['global_step']}")
    return path


def _keep_if_best(trainer: pl.Trainer, last: Path) -> None:
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.monitor not in trainer.callback_metrics:
            continue
        if trainer.is_global_zero and callback.check_monitor_top_k(trainer, trainer.callback_metrics[callback.monitor]):
            shutil.copyfile(last, last.with_name(f"{callback.filename}.ckpt"))


def report(figures: dict[str, float], task: Any, run_dir: Path) -> None:
    """The last words of a run: its figures, and where everything is."""
    for name in sorted(figures):
        if name.startswith(("val/", "test/")):
            say(f"  {name:<24} {figures[name]:.4f}")
    if absent := task.absent_classes():
        more = f" and {len(absent) - 5} more, see summary.json" if len(absent) > 5 else ""
        say(f"  classes without a positive, left out of the mAP: {', '.join(absent[:5])}{more}")
    here = Path.cwd()
    say(f"run directory: {run_dir.relative_to(here) if run_dir.is_relative_to(here) else run_dir}")
    for name, what in (
        ("summary.json", "what ran, with which result"),
        ("curves.png", "loss and figures over the steps"),
        ("metrics.csv", "every logged figure"),
        ("predictions.json", "every detection of the last validation, in COCO's format"),
        ("panel", "truth and predictions side by side"),
        ("config.yaml", "the configuration in force"),
        ("checkpoints/best.ckpt", f"highest {task.monitor}"),
        ("checkpoints/last.ckpt", "to continue with ckpt_path=last"),
    ):
        if (run_dir / name).exists():
            say(f"  {name:<22} {what}")


@rank_zero_only
def say(text: str) -> None:
    """Print on the first process only."""
    print(text, flush=True)
