"""A callback by which one rank of a training comes to harm at a chosen batch."""

import os
import signal
import time
from typing import Any

from pytorch_lightning.callbacks import Callback

from nlnet.errors import UserError


def stopper(how: str, batch: int, rank: int, where: str = "step") -> list[str]:
    """The words of a command line by which a rank stops; see `StopRank`."""
    values = {"how": how, "batch": batch, "rank": rank, "where": where}
    words = [f"+callbacks.stopper.{name}={value}" for name, value in values.items()]
    return ["extras.allow_targets=[helpers]", "+callbacks.stopper._target_=helpers.stopping.StopRank", *words]


class StopRank(Callback):
    """Rank `rank` raises, is killed, is stopped or sleeps (`how`) at training batch `batch`.

    In the "step", or while it waits for the "data" of the next. Once in the life of the file `once`, where it is given.
    """

    def __init__(self, how: str, batch: int, rank: int, where: str = "step", once: str = "") -> None:
        self.how, self.batch, self.rank, self.where, self.once = how, batch, rank, where, once

    def _pass(self, where: str, batch: int) -> None:
        if where != self.where or batch != self.batch or int(os.environ.get("RANK", "0")) != self.rank:
            return
        if self.once:
            if os.path.exists(self.once):
                return
            open(self.once, "w").close()
        if self.how == "raise":
            raise ValueError("two of its wires are crossed")
        if self.how == "refuse":
            raise UserError("clip.mp4: it cannot be read; repair it")
        if self.how == "sleep":
            time.sleep(600)
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[self.how])
        time.sleep(600)  # until it has come

    def on_after_backward(self, trainer: Any, *_: Any) -> None:
        self._pass("step", trainer.fit_loop.batch_idx)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, idx: int) -> None:
        self._pass("start", idx)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, idx: int) -> None:
        self._pass("data", idx + 1)
