"""The watch over the ranks of one training or evaluation, as a callback that says how far it is."""

import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback

from nlnet.errors import RunInterrupted, UserError
from nlnet.runs.watching.board import Board, meeting_point, serves
from nlnet.runs.watching.watch import Watch, linger, of_the_others
from nlnet.text import say

_CLOSING_S = 5.0  # for the record of a process that ends at once
_AFTERWARDS_S = 60.0  # what the process group's own time limit is longer, which says nothing of the cause


class RankWatch(Callback):
    """Ends all ranks, with the first cause, when one of them fails, is killed, or stands still for `timeout_s`.

    A rank whose main thread waits in vain is ended from another thread: `on_end` is called with the cause, and the
    process exits with code 1. Nothing for a single rank, which nobody waits for.
    """

    def __init__(self, timeout_s: float, on_end: Callable[[UserError], None]) -> None:
        self.timeout_s, self.on_end = timeout_s, on_end
        self._watch: Watch | None = None

    @contextmanager
    def over(self) -> Iterator[None]:
        """Around all that the ranks do together. Raises UserError for an error that another rank is the cause of."""
        try:
            yield
        except RunInterrupted:
            raise
        except BaseException as error:
            self._tell(error)
            if self._watch is not None and self._watch.cause and of_the_others(error):
                raise UserError(self._watch.cause) from error
            raise
        finally:
            if self._watch is not None:
                self._watch.stop()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self._watch is not None:
            return
        name = trainer.strategy.broadcast(secrets.token_hex(8))
        board = Board(*meeting_point(), name, trainer.global_rank, trainer.world_size, self.timeout_s)
        self._watch = Watch(board, self.timeout_s, self._give_up)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._tell(exception)

    def _tell(self, error: BaseException) -> None:
        """Say or learn the first cause, before anything is closed."""
        watch = self._watch
        if watch is None or watch.cause or isinstance(error, RunInterrupted):
            return
        if of_the_others(error):
            watch.why()
        else:
            watch.fail(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        if serves(watch.board.rank):
            linger(watch)

    def _give_up(self, cause: str) -> None:
        error = UserError(cause)
        closing = threading.Thread(target=self.on_end, args=(error,), daemon=True)
        closing.start()
        closing.join(_CLOSING_S)
        say(f"error: {error}", error=True)
        sys.stdout.flush()
        os._exit(1)

    # ---- how far it is

    def _at(self, place: str) -> None:
        if self._watch is not None:
            self._watch.at(place)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._at("waits for its first training batch")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        self._at(f"is in training batch {idx}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._at(f"is done with training batch {batch_idx} and waits for the next")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._at(f"is at the end of epoch {trainer.current_epoch}")

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._at("is in a validation batch")

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._at("waits for the next validation batch")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._at("is at the end of a validation")

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        self._at("is in a test batch")

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self._at("waits for the next test batch")


def rank_timeout_s(cfg: DictConfig) -> float:
    """`extras.rank_timeout_s`, which runs of earlier versions do not have."""
    return float(cfg.extras.get("rank_timeout_s", 900))


def limit_waiting(trainer: pl.Trainer, timeout_s: float) -> None:
    """Let no rank wait longer for one that never comes, at the start and where no watch can reach it."""
    if hasattr(trainer.strategy, "_timeout"):  # of all that Lightning starts a process group for; it has no public name
        trainer.strategy._timeout = timedelta(seconds=timeout_s + _AFTERWARDS_S)
