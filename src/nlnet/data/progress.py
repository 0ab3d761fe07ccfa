"""Progress with a total and an estimated end: a bar in a terminal, a plain line now and then elsewhere."""

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0


class Meter:
    """Counts `total` things; use it as a context and call `advance` for each."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.begin = self.told = time.monotonic()
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bar = Progress(*columns, console=self.console)
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
            share = self.done / self.total
            line = f"{self.what}: {self.done:,}/{self.total:,} ({share:.0%}), {rate:.1f} a second, ETA {left}"
            self.console.print(line, highlight=False, soft_wrap=True)
