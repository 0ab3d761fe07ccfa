"""What can be told of a training once there are data, task and trainer: mistakes are found before its first step."""

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, ModelCheckpoint

from nlnet.attention.capture import find_blocks
from nlnet.data.modules.base import ShardDataModule
from nlnet.errors import UserError, nearest
from nlnet.runs.callbacks.attention_figures import AttentionFigures
from nlnet.runs.callbacks.image_grid import ImageGrid
from nlnet.runs.execution import check_execution
from nlnet.runs.start import Run


def check_training(run: Run, trainer: pl.Trainer) -> None:
    """Raises UserError for what would stop this training later, or make it do nothing."""
    _check_metric("task.monitor", run.task.monitor, run)
    for name, callback in _callbacks(run, trainer):
        _check_callback(name, callback, run)
    optimized = run.cfg.optimized_metric
    if optimized != "best" and not optimized.startswith(("train/", "data/", "perf/")):
        _check_metric("optimized_metric", optimized, run)
    if optimized.startswith("test/") and not run.cfg.test:
        raise UserError(f"optimized_metric={optimized}: there is no test without test=true")
    check_execution(run.task, run.cfg, trainer)
    if run.cfg.train:
        _check_lengths(run, trainer)


def _callbacks(run: Run, trainer: pl.Trainer) -> list[tuple[str, pl.Callback]]:
    """The callbacks with the keys of the configuration that they are made by, as far as it can be told."""
    nodes = {key: str(node.get("_target_")) for key, node in (run.cfg.get("callbacks") or {}).items() if node}
    found = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        names = [key for key, target in nodes.items() if target.rpartition(".")[2] == type(callback).__name__]
        found.append((f"callbacks.{names[0]}" if names else type(callback).__name__, callback))
    return found


def _check_callback(name: str, callback: pl.Callback, run: Run) -> None:
    if isinstance(callback, LearningRateFinder | BatchSizeFinder):
        what = (
            "optim.optimizer.lr=0.001,0.003,0.01"
            if isinstance(callback, LearningRateFinder)
            else "data.batch_size=8,16"
        )
        raise UserError(
            f"{name}: {type(callback).__name__} would train steps before the first one and change settings that are"
            f" recorded already; try values side by side: -m {what}"
        )
    if isinstance(callback, AttentionFigures):
        if run.task.samples == "images":
            raise UserError(f"{name}: it draws clips, and this task is of images; set callbacks=default")
        find_blocks(run.task.net)
    if isinstance(callback, ImageGrid) and run.task.kind != "detection":
        what = f"{run.task.samples} ({run.task.kind})"
        raise UserError(f"{name}: it draws detections, and this task is of {what}; set callbacks=default")
    if isinstance(callback, ModelCheckpoint | EarlyStopping) and isinstance(callback.monitor, str):
        _check_metric(f"{name}.monitor", callback.monitor, run)


def _check_metric(key: str, metric: str, run: Run) -> None:
    """A metric of the validation is one that the task logs, where the task can tell."""
    names = run.task.metric_names()
    stage, slash, name = metric.partition("/")
    if names is None or (slash and stage == "train"):  # what a step logs is not known
        return
    if stage not in ("val", "test") or name not in names:
        known = [f"val/{known}" for known in names]
        raise UserError(f"{key}={metric}: this task logs no such metric; {nearest(metric, known)}")


def _check_lengths(run: Run, trainer: pl.Trainer) -> None:
    """Limits and intervals, held against the number of batches."""
    settings: Any = trainer
    run.data.trainer = trainer  # which says over how many ranks and parts a batch is split
    batches = _batches(run, train=True)
    limit = settings.limit_train_batches
    taken = None if batches is None else min(batches, limit) if isinstance(limit, int) else math.floor(batches * limit)
    key = "overfit_batches" if settings.overfit_batches else "limit_train_batches"
    if taken == 0:
        raise UserError(f"trainer.{key}={limit}: less than one of the {batches} batches of an epoch; give 1, or more")
    every = settings.val_check_interval
    per_epoch = settings.check_val_every_n_epoch is not None and settings.limit_val_batches
    if taken is not None and per_epoch and type(every) is int and every > taken:
        raise UserError(
            f"trainer.val_check_interval={every}: an epoch has {taken} batches; give {taken} or less, or count across"
            " epochs with trainer.check_val_every_n_epoch=null"
        )
    limit, batches = settings.limit_val_batches, _batches(run, train=False)
    if batches and isinstance(limit, float) and limit > 0 and math.floor(batches * limit) == 0:
        raise UserError(f"trainer.limit_val_batches={limit}: less than one of the {batches} validation batches; give 1")


def _batches(run: Run, *, train: bool) -> int | None:
    """How many batches a pass over shards has; None for data of somebody's own, which may not be set up yet."""
    if not isinstance(run.data, ShardDataModule):
        return None
    try:
        return len(run.data.train_dataloader() if train else run.data.val_dataloader())
    finally:
        run.data.close()
