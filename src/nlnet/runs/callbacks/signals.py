"""SIGINT and SIGTERM, noted rather than obeyed at once."""

import signal
from types import FrameType
from typing import Any


class StopSignals:
    """While installed, remembers the first SIGINT or SIGTERM in `received`; a second one acts as it did before.

    A handler runs between any two Python instructions, where nothing can be saved safely. So it only sets a flag, and
    the run leaves at a place of its choosing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            current = signal.getsignal(number)
            if current != self._note:
                self._previous[number] = current
                signal.signal(number, self._note)

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            self.restore()
            signal.raise_signal(number)
        self.received = number
