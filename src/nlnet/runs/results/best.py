"""The best checkpoint of a run: which callback keeps it, and the test of it."""

from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging

from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.mismatch import check_fits
from nlnet.distributed import on_first, print_once
from nlnet.runs.record import logged_metrics
from nlnet.runs.sharding.saving import remove_unused
from nlnet.saving import replacing
from nlnet.sealing import save_sealed
from nlnet.tasks.task import Task


def keeper(trainer: pl.Trainer, monitor: str) -> ModelCheckpoint | None:
    """The callback that keeps the best checkpoint by `monitor`, or else by another metric; None where there is none."""
    found = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor and c.save_top_k]
    return next((callback for callback in found if callback.monitor == monitor), found[0] if found else None)


def kept_best(trainer: pl.Trainer, monitor: str) -> Path | None:
    """The file of the best checkpoint, under whatever name; None where none is kept."""
    callback = keeper(trainer, monitor)
    path = Path(callback.best_model_path) if callback and callback.best_model_path else None
    return path if path is not None and path.is_file() else None


def describe_best(trainer: pl.Trainer, monitor: str) -> tuple[Path, str] | None:
    """The file of the best checkpoint, and in words what it is the best of."""
    callback, path = keeper(trainer, monitor), kept_best(trainer, monitor)
    words = {"max": "highest", "min": "lowest"}
    return (path, f"{words[callback.mode]} {callback.monitor}") if callback and path else None


def keep_if_best(trainer: pl.Trainer, checkpoint: Path) -> None:
    """After a validation at the end of a training: `checkpoint`, which it was of, is kept where it is the best.

    Called on every rank.
    """
    counts = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
    metrics = counts | trainer.callback_metrics
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.monitor not in trainer.callback_metrics:
            continue
        score = trainer.callback_metrics[callback.monitor]
        if not callback.check_monitor_top_k(trainer, score):  # which the ranks decide together
            continue
        target = Path(callback.format_checkpoint_name(metrics))
        dropped = callback.kth_best_model_path if len(callback.best_k_models) == callback.save_top_k else ""
        callback.best_k_models.pop(dropped, None)
        callback.best_k_models[str(target)] = score
        best, worst = (max, min) if callback.mode == "max" else (min, max)
        callback.best_model_path = best(callback.best_k_models, key=callback.best_k_models.__getitem__)
        callback.kth_best_model_path = worst(callback.best_k_models, key=callback.best_k_models.__getitem__)
        callback.best_model_score = callback.best_k_models[callback.best_model_path]
        callback.kth_value = callback.best_k_models[callback.kth_best_model_path]
        on_first(partial(_keep, checkpoint, target, callback))
        if dropped and Path(dropped) != target:
            trainer.strategy.remove_checkpoint(dropped)


def _keep(checkpoint: Path, target: Path, callback: ModelCheckpoint) -> None:
    content = read_file(checkpoint)
    content["callbacks"][callback.state_key] = callback.state_dict()  # it says which score it has
    with replacing(target, follow_links=False) as temporary:
        save_sealed(content, temporary)
    remove_unused(target.parent)


def test_the_best(trainer: pl.Trainer, task: Task, data: pl.LightningDataModule) -> dict[str, float]:
    """The metrics of the best checkpoint of this training; of the last weights, and said so, where none was kept."""
    path = kept_best(trainer, task.monitor)
    if path is None:
        print_once(
            f"test=true: no checkpoint of the best {task.monitor} was kept; testing the weights of the last step"
        )
    elif any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        # Restored by the trainer, the weights that were averaged would take the place of their average.
        state = read_file(path)["state_dict"]
        check_fits(state, task.state_dict(), str(path))
        task.load_state_dict(state)
        path = None
    trainer.test(task, data, ckpt_path=path, weights_only=True, verbose=False)
    return logged_metrics(trainer)
