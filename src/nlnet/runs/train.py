"""A training from its configuration to its last words."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from nlnet.checkpoints.files import BEST, LAST, PREVIOUS, read_file
from nlnet.checkpoints.mismatch import check_fits
from nlnet.distributed import print_once
from nlnet.errors import RunInterrupted, UserError
from nlnet.runs.build import make_trainer
from nlnet.runs.callbacks.exact_resume import ExactResume
from nlnet.runs.callbacks.finite import FiniteNumbers
from nlnet.runs.callbacks.metrics_csv import MetricsCsv
from nlnet.runs.curves import draw
from nlnet.runs.durability.checkpoint_io import DurableCheckpointIO
from nlnet.runs.durability.restoring import CheckedRestore, restoring_error
from nlnet.runs.identity.ranks import agree_first, failing_together
from nlnet.runs.identity.resumed import Identity, check_continued
from nlnet.runs.loggers import finish
from nlnet.runs.record import logged_metrics, settings_yaml
from nlnet.runs.report import report
from nlnet.runs.settings_diff import differences
from nlnet.runs.start import Run, start
from nlnet.saving import replacing


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Train as `cfg` says (see `nlnet.config.resolve.load`).

    Returns the metrics of the last validation (and of the best one's monitored metric as `best`), and the objects:
    `run_dir`, `trainer`, `task`, `data`.
    """
    if cfg.extras.print_config:
        for text in settings_yaml(cfg).split("\n"):
            print_once(text)
    with failing_together(cfg):
        run = start(cfg)
    try:
        return _train(run)
    finally:
        run.lock.release()


def _train(run: Run) -> tuple[dict[str, float], dict[str, Any]]:
    cfg, metrics = run.cfg, dict[str, float]()
    try:
        io = DurableCheckpointIO()
        resume = ExactResume(run.folder / "checkpoints", cfg.seed, cfg.extras.checkpoint_every_n_steps)
        metrics_csv = MetricsCsv(run.folder / "metrics.csv", cfg.trainer.log_every_n_steps)
        callbacks = [CheckedRestore(), FiniteNumbers(resume.path), run.counter, metrics_csv, resume, Identity(run.data)]
        with failing_together(cfg):
            trainer = make_trainer(cfg, callbacks, io)
            resume_from = _checkpoint_to_resume(run, io, trainer.world_size)
            agree_first(trainer, cfg, run.data)
        if cfg.train:
            _fit(run, trainer, resume_from)
            _validate_the_end(run, trainer, resume)
        metrics = logged_metrics(trainer)
        if cfg.test:
            metrics |= _test_the_best(run, trainer)
    except RunInterrupted:
        run.record.end_early("interrupted", metrics)
        raise
    except BaseException as error:
        run.record.end_early("failed", metrics, error)
        raise
    finally:
        finish()
        run.data.close()
    run.record.end("finished", metrics)
    if trainer.is_global_zero and not cfg.trainer.get("fast_dev_run"):
        draw(metrics_csv.path, run.task.monitor, run.folder / "curves.png", run.folder.name)
        report(metrics, run.task, run.folder)
    return metrics, {"run_dir": run.folder, "trainer": trainer, "task": run.task, "data": run.data}


def _checkpoint_to_resume(run: Run, io: DurableCheckpointIO, ranks: int) -> Path | None:
    """The checkpoint that `ckpt_path` names, looked at before the trainer does; `io` gives it what was read."""
    ckpt_path = run.cfg.ckpt_path
    if not ckpt_path:
        return None
    path, checkpoint = _read_last(run.folder / "checkpoints") if ckpt_path == "last" else _read(Path(ckpt_path))
    if not isinstance(checkpoint.get("state_dict"), Mapping) or not isinstance(checkpoint.get("global_step"), int):
        raise UserError(f"ckpt_path={path}: not a checkpoint of a run; to start from its weights set init.checkpoint")
    check_fits(checkpoint["state_dict"], run.task.state_dict(), f"ckpt_path={path}")
    check_continued(checkpoint, run.data, ranks, run.cfg, f"ckpt_path={path}")
    if changed := differences(checkpoint, run.cfg):
        print_once(f"continuing with settings that differ from the checkpoint's: {', '.join(changed)}")
    print_once(f"continuing {path} after step {checkpoint['global_step']}")
    io.hand_over(path, checkpoint)
    return path


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    return path, read_file(path, "ckpt_path=")


def _read_last(folder: Path) -> tuple[Path, dict[str, Any]]:
    """`last.ckpt`, or the one before it where it is missing or damaged."""
    try:
        return _read(folder / LAST)
    except UserError:
        if not (folder / PREVIOUS).is_file():
            raise
        what = "damaged" if (folder / LAST).is_file() else "missing"
        print_once(f"ckpt_path=last: {folder / LAST} is {what}; continuing the checkpoint before it")
        return _read(folder / PREVIOUS)


def _fit(run: Run, trainer: pl.Trainer, resume_from: Path | None) -> None:
    """Train. Raises UserError for a checkpoint whose state is not that of such a run."""
    try:
        trainer.fit(run.task, datamodule=run.data, ckpt_path=resume_from, weights_only=True)
    except Exception as error:
        if resume_from and (mistake := restoring_error(error, resume_from, trainer)):
            raise mistake from error
        raise


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
            with replacing(last.with_name(f"{callback.filename}.ckpt"), follow_links=False) as temporary:
                shutil.copyfile(last, temporary)


def _test_the_best(run: Run, trainer: pl.Trainer) -> dict[str, float]:
    best = run.folder / "checkpoints" / BEST
    chosen = best if best.is_file() else None
    trainer.test(run.task, run.data, ckpt_path=chosen, weights_only=True, verbose=False)
    return logged_metrics(trainer)
