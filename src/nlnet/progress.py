"""Progress with a total and an estimated end: a bar in a terminal, a plain line now and then elsewhere."""

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console

from nlnet.text import line

LINE_EVERY_S = 10.0


class Progress:
    """Counts `total` things; use it as a context and call `advance` for each."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = line(what), total, 0
        self.begin = self.told = time.monotonic()
        self.console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self.bar: bars.Progress | None = None
        self.task = bars.TaskID(0)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            columns = (
                bars.TextColumn("{task.description}", markup=False),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(),
            )
            self.bar = bars.Progress(*columns, console=self.console)
            self.task = self.bar.add_task(self.what, total=self.total)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        if self.bar:
            self.bar.advance(self.task)
            return
        now = time.monotonic()
        if now - self.told >= LINE_EVERY_S:
            self.told = now
            rate = self.done / (now - self.begin)
            left = timedelta(seconds=round((self.total - self.done) / rate))
            fraction = self.done / self.total
            said = f"{self.what}: {self.done:,}/{self.total:,} ({fraction:.0%}), {rate:.1f} a second, ETA {left}"
            self.console.print(said, soft_wrap=True)
