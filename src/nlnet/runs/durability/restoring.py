"""What a checkpoint may say to a run that continues it: plain values of the right kinds, and paths to its own files."""

import os
from collections.abc import Mapping
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from nlnet.errors import UserError
from nlnet.runs.durability.kept_files import kept_files

# The functions within which Lightning and PyTorch put the values of a checkpoint into their places.
_RESTORING = ("load_state_dict", "_restore_modules_and_callbacks", "restore_training_state")
# Whose state is numbers and tensors of the parameters' shapes.
_BY_PARAMETER = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_NOT_THE_FILE = (UserError, MemoryError, torch.OutOfMemoryError)


class CheckedRestore(Callback):
    """Looks through the state of a checkpoint before callbacks and loops get it, and at the optimizers' afterwards.

    Lightning believes what a checkpoint says: a path in a callback's state is later removed, a text in a counter fails
    many steps on. Raises ValueError for a value of another kind than the run's own; see `restoring_error`.
    """

    def __init__(self) -> None:
        self._began: int | None = None

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        states = checkpoint["callbacks"]
        for callback in _callbacks(trainer):
            state = states.get(callback.state_key)
            if isinstance(callback, ModelCheckpoint):
                found = kept_files(callback, state) if trainer.is_global_zero else None
                state = states[callback.state_key] = trainer.strategy.broadcast(found)
            if state and type(callback).__module__.startswith(("pytorch_lightning.", "nlnet.")):
                _check_like(callback.state_dict(), state, type(callback).__name__)
        given = checkpoint["loops"]["fit_loop"]
        _check_like(own := trainer.fit_loop.state_dict(), given, "loops")
        for name in own.keys() & given.keys():
            if name.endswith("progress"):
                _check_counts(own[name], given[name], f"loops.{name}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = trainer.global_step
        for optimizer in trainer.optimizers:
            _check_optimizer(optimizer)
        for config in trainer.lr_scheduler_configs:
            _check_schedule(config.scheduler)

    def is_new(self, trainer: pl.Trainer) -> bool:
        """Whether no whole step has been done since the state was restored."""
        return self._began is None or trainer.global_step <= self._began + 1


def restoring_error(error: Exception, path: Path, trainer: pl.Trainer) -> UserError | None:
    """`error` as a mistake in the checkpoint `path`, where it came up while its state was put in place or first used.

    None for every other error.
    """
    if isinstance(error, _NOT_THE_FILE):
        return None
    codes = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
    restoring = any(code.co_name in _RESTORING or code.co_qualname.startswith("CheckedRestore.") for code in codes)
    of_optimizer = f"{Path('torch', 'optim')}{os.sep}" in codes[-1].co_filename
    checks = [callback for callback in _callbacks(trainer) if isinstance(callback, CheckedRestore)]
    if not restoring and not (of_optimizer and any(check.is_new(trainer) for check in checks)):
        return None
    text = (str(error).splitlines() or [""])[0][:300]
    return UserError(
        f"ckpt_path={path}: its state does not fit this run: {type(error).__name__}: {text};"
        " to start a new run from its weights set init.checkpoint"
    )


def _callbacks(trainer: pl.Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]


def _check_like(own: Any, given: Any, where: str) -> None:
    """Raises ValueError where `given` has something else than a number, a mapping or a list in the place of one."""
    if isinstance(own, Mapping):
        if not isinstance(given, Mapping):
            raise ValueError(f"{where} is not a mapping")
        for key, value in own.items():
            if key in given:
                _check_like(value, given[key], f"{where}.{key}")
    elif isinstance(own, int | float | Tensor) and given is not None and not _is_number(given):
        raise ValueError(f"{where} is not a number")
    elif isinstance(own, list | tuple) and not isinstance(given, list | tuple):
        raise ValueError(f"{where} is not a list")


def _check_optimizer(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        _check_like(optimizer.defaults, {name: group[name] for name in optimizer.defaults}, "optimizer")
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            same = value is None or _is_number(value) or getattr(value, "shape", None) == parameter.shape
            if not same and isinstance(optimizer, _BY_PARAMETER):
                raise ValueError(f"optimizer: {name} is not of its parameter's shape")


def _check_schedule(schedule: Any) -> None:
    _check_like(0, getattr(schedule, "last_epoch", 0), "schedule.last_epoch")
    for name, value in vars(schedule).items():  # its state goes into them as it is
        if callable(getattr(type(schedule), name, None)) and not callable(value):
            raise ValueError(f"schedule: {name} is not a value of it")


def _check_counts(own: Any, given: Any, where: str) -> None:
    """Raises ValueError unless what the loops have counted are counts, under the names that they have here."""
    if isinstance(own, Mapping):
        for key, value in given.items():
            if key not in own:
                raise ValueError(f"{where}.{key} is no counter of the loops")
            _check_counts(own[key], value, f"{where}.{key}")
    elif not isinstance(given, int) or given < 0:
        raise ValueError(f"{where} is not a count")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
