"""Exact resume: randomness by position, `last.ckpt` between steps, and signals that wait for such a place."""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging

from nlnet.distributed import gather
from nlnet.errors import RunInterrupted
from nlnet.runs.callbacks.loop_state import between_steps, settle, validation_due
from nlnet.runs.callbacks.signals import StopSignals


class ExactResume(Callback):
    """Makes a run that is killed and resumed give what it would have given without the kill.

    - Every part of a batch is seeded from (seed, batch, part), where the parts are those of all ranks and of all
      accumulated steps: no generator has a history to restore, and it does not matter which rank works on which part.
    - `last.ckpt` is written after every `every_n_steps`-th optimizer step, when a signal has come in, and at the end.
    - SIGINT, SIGTERM and SIGUSR1 set a flag; the ranks agree on it after each optimizer step. During a validation,
      which changes nothing, the run stops at the next batch and validates again when it is resumed.
    """

    def __init__(
        self, folder: Path, seed: int, every_n_steps: int, on_stop: Callable[[int], None] | None = None
    ) -> None:
        """`on_stop` is called with the signal before the last checkpoint is written: more may follow soon."""
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.path = Path(folder) / "last.ckpt"
        self.seed, self.every_n_steps, self.on_stop = seed, every_n_steps, on_stop
        self.signals = StopSignals()
        self.validated_step = -1  # optimizer steps that the last finished validation had seen
        self._saved_step = -1
        self._leaving = False
        self._number: int = signal.SIGTERM  # that asked for it, on any rank
        self._trained = False
        self._epoch_over = False

    def state_dict(self) -> dict[str, Any]:
        return {"validated_step": self.validated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated_step = state_dict["validated_step"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.path = Path(trainer.strategy.broadcast(str(self.path)))  # ranks on other machines may have named it apart

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_step = trainer.global_step
        self.signals.install()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.signals.restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.signals.restore()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        self._leave_if_saved()
        self._trained, self._epoch_over = True, False
        batch, accumulated = divmod(trainer.fit_loop.epoch_loop.total_batch_idx, trainer.accumulate_grad_batches)
        seed_everything_for(self.seed, batch, accumulated * trainer.world_size + trainer.global_rank)

    def after_batch(self, trainer: pl.Trainer) -> None:
        """Save where it is time to; see `SaveLast`."""
        if trainer.global_step == self._saved_step or not between_steps(trainer):
            return
        stop = self._stop_agreed(trainer)
        if stop or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)
        # Leave at the next hook, not here: the loggers get this step's metrics only after this one.
        self._leaving = stop

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave_if_saved()
        if trainer.state.fn == "validate":  # after the training, whose end has given the signals back
            self.signals.install()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.install()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._leaving = self._stop_agreed(trainer)
        self._leave_if_saved()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._stop_agreed(trainer):
            if trainer.state.fn == "fit" and not trainer.sanity_checking and between_steps(trainer):
                for callback in trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, WeightAveraging):  # whose average is in the network's place just now
                        callback.on_validation_epoch_end(trainer, pl_module)
                self._save(trainer)
            self._leaving = True
            self._leave_if_saved()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated_step = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch_over = True
        self._leave_if_saved()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._trained or self._epoch_over:  # a resume that found nothing to do leaves the checkpoint as it is
            self._save(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if trainer.state.fn != "fit" or not between_steps(trainer):
            return
        pending = validation_due(trainer) and self.validated_step != trainer.global_step
        settle(checkpoint, trainer, pending=pending, epoch_over=self._epoch_over)

    def _save(self, trainer: pl.Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        trainer.save_checkpoint(self.path)
        self._saved_step = trainer.global_step

    def _stop_agreed(self, trainer: pl.Trainer) -> bool:
        """Whether any rank has been asked to stop; a scheduler may signal only one of them."""
        mine = self.signals.received is not None
        stop = trainer.strategy.reduce_boolean_decision(mine, all=False) if trainer.world_size > 1 else mine
        if stop:
            self._number = next((number for number in gather(self.signals.received) if number), signal.SIGTERM)
        if stop and self.on_stop:
            self.on_stop(self._number)
            self.on_stop = None
        return stop

    def _leave_if_saved(self) -> None:
        if self._leaving:
            raise RunInterrupted(self._number, self.path if self.path.is_file() else None)


class SaveLast(Callback):
    """The last callback of all: `last.ckpt` is of a moment at which the others are done with the batch."""

    def __init__(self, resume: ExactResume) -> None:
        self.resume = resume

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.resume.after_batch(trainer)


def seed_everything_for(seed: int, batch: int, part: int) -> None:
    """Seed torch, NumPy and `random` for one part of a batch."""
    state = int(np.random.SeedSequence((seed, batch, part)).generate_state(1, np.uint32)[0])
    torch.manual_seed(state)
    np.random.seed(state)
    random.seed(state)
