"""A callback that sends its own process a signal at a chosen moment."""

import os
import signal
from typing import Any

from pytorch_lightning.callbacks import Callback

from nlnet.runs.durability import checkpoint_io


def killer(moment: str, count: int, number: int, rank: int = 0) -> list[str]:
    """The words of a command line that send the run a signal; see `SignalAt`."""
    values = {"moment": moment, "count": count, "number": int(number), "rank": rank}
    words = [f"+callbacks.killer.{name}={value}" for name, value in values.items()]
    return ["extras.allow_targets=[helpers]", "+callbacks.killer._target_=helpers.signalling.SignalAt", *words]


class SignalAt(Callback):
    """Sends `number` once, at the `count`-th time (from 1) that `moment` comes."""

    def __init__(self, moment: str, count: int, number: int, rank: int = 0) -> None:
        self.moment, self.left, self.number, self.rank = moment, count, number, rank

    def _pass(self, moment: str) -> None:
        if moment == self.moment and int(os.environ.get("RANK", "0")) == self.rank:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)
                if self.number == signal.SIGKILL:
                    signal.pause()

    def on_train_batch_start(self, *_: Any) -> None:
        self._pass("batch_start")

    def on_after_backward(self, *_: Any) -> None:
        self._pass("inside_step")

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._pass("validation")

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        self._pass("test")

    def on_train_start(self, *_: Any) -> None:
        """A kill within the writing of a checkpoint: the new one is there under a temporary name."""
        if self.moment == "saving":
            save = checkpoint_io.save_sealed

            def save_and_pass(content: Any, path: Any) -> None:
                save(content, path)
                self._pass("saving")

            checkpoint_io.save_sealed = save_and_pass

    def on_validation_end(self, *_: Any) -> None:
        self._pass("validation_end")
