"""SIGINT, SIGTERM and SIGUSR1, noted rather than obeyed at once."""

import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import SLURMEnvironment

from nlnet.distributed import print_once


def leave_requeuing(trainer: pl.Trainer) -> None:
    """Let the job's script requeue it, once the run has ended with a checkpoint.

    Lightning would, within its handler: in the middle of a step, and of whatever the ranks do together.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


class StopSignals:
    """While installed, remembers the first SIGINT, SIGTERM or SIGUSR1 in `received`; a second one acts as before.

    SIGUSR1 is a warning of schedulers that preempt. Where another program answers it already, that one does.

    A handler runs between any two Python instructions, where nothing can be saved safely. So it only sets a flag, and
    the run leaves at a place of its choosing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._said = False

    def install(self) -> None:
        """Take the signals over. In another thread than the main one, where Python allows it to nobody, they stay."""
        if threading.current_thread() is not threading.main_thread():
            if not self._said:
                print_once(
                    "not in the main thread: Ctrl-C and SIGTERM end this run at once; ckpt_path=last continues it"
                )
            self._said = True
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            current = signal.getsignal(number)
            taken = number == signal.SIGUSR1 and current != signal.SIG_DFL
            if current != self._note and not taken:
                self._previous[number] = current
                signal.signal(number, self._note)

    def restore(self) -> None:
        for number, handler in self._previous.items():
            # Lightning puts the handlers of before the run back first; its own are not to come again after that.
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            self.restore()
            signal.raise_signal(number)
        self.received = number
