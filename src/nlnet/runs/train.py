"""A training from its configuration to its last words."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.mismatch import check_fits
from nlnet.distributed import print_once
from nlnet.errors import RunInterrupted, UserError
from nlnet.runs.build import make_trainer
from nlnet.runs.callbacks.exact_resume import ExactResume
from nlnet.runs.callbacks.metrics_csv import MetricsCsv
from nlnet.runs.curves import draw
from nlnet.runs.loggers import finish
from nlnet.runs.record import logged_metrics
from nlnet.runs.report import report
from nlnet.runs.settings_diff import differences
from nlnet.runs.start import Run, start


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Train as `cfg` says (see `nlnet.config.resolve.load`).

    Returns the metrics of the last validation (and of the best one's monitored metric as `best`), and the objects:
    `run_dir`, `trainer`, `task`, `data`.
    """
    if cfg.extras.print_config:
        print_once(OmegaConf.to_yaml(cfg, resolve=True))
    run = start(cfg)
    resume_from = _checkpoint_to_resume(run)
    resume = ExactResume(run.folder / "checkpoints", cfg.seed, cfg.extras.checkpoint_every_n_steps)
    metrics_csv = MetricsCsv(run.folder / "metrics.csv", cfg.trainer.log_every_n_steps)
    trainer = make_trainer(run.cfg, [run.counter, metrics_csv, resume])
    metrics: dict[str, float] = {}
    try:
        if cfg.train:
            trainer.fit(run.task, datamodule=run.data, ckpt_path=resume_from, weights_only=True)
            _validate_the_end(run, trainer, resume)
        metrics = logged_metrics(trainer)
        if cfg.test:
            metrics |= _test_the_best(run, trainer)
    except RunInterrupted:
        run.record.end("interrupted", metrics)
        raise
    except BaseException:
        run.record.end("failed", metrics)
        raise
    finally:
        finish()
        run.data.close()
    run.record.end("finished", metrics)
    if trainer.is_global_zero and not cfg.trainer.get("fast_dev_run"):
        draw(metrics_csv.path, run.task.monitor, run.folder / "curves.png", run.folder.name)
        report(metrics, run.task, run.folder)
    return metrics, {"run_dir": run.folder, "trainer": trainer, "task": run.task, "data": run.data}


def _checkpoint_to_resume(run: Run) -> Path | None:
    """The checkpoint that `ckpt_path` names, looked at before the trainer does."""
    ckpt_path = run.cfg.ckpt_path
    if not ckpt_path:
        return None
    path = run.folder / "checkpoints" / "last.ckpt" if ckpt_path == "last" else Path(ckpt_path)
    checkpoint = read_file(path, "ckpt_path=")
    if not isinstance(checkpoint.get("state_dict"), Mapping) or "global_step" not in checkpoint:
        raise UserError(f"ckpt_path={path}: not a checkpoint of a run; to start from its weights set init.checkpoint")
    check_fits(checkpoint["state_dict"], run.task.state_dict(), f"ckpt_path={path}")
    if changed := differences(checkpoint, run.cfg):
        print_once(f"continuing with settings that differ from the checkpoint's: {', '.join(changed)}")
    print_once(f"continuing {path} after step {checkpoint['global_step']}")
    return path


def _validate_the_end(run: Run, trainer: pl.Trainer, resume: ExactResume) -> None:
    """Where the last steps are not at an epoch's end, or a resume found all steps done: validated, or cut short."""
    logged = resume.validated_step == trainer.global_step and run.task.monitor in trainer.callback_metrics
    if trainer.enable_validation and not logged:
        trainer.validate(run.task, datamodule=run.data, verbose=False)
        _keep_if_best(trainer, resume.path)


def _keep_if_best(trainer: pl.Trainer, last: Path) -> None:
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.monitor not in trainer.callback_metrics:
            continue
        if trainer.is_global_zero and callback.check_monitor_top_k(trainer, trainer.callback_metrics[callback.monitor]):
            shutil.copyfile(last, last.with_name(f"{callback.filename}.ckpt"))


def _test_the_best(run: Run, trainer: pl.Trainer) -> dict[str, float]:
    best = run.folder / "checkpoints" / "best.ckpt"
    chosen = best if best.is_file() else None
    trainer.test(run.task, run.data, ckpt_path=chosen, weights_only=True, verbose=False)
    return logged_metrics(trainer)
