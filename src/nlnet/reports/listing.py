"""The runs of a folder as a list: which there are, how they stand, and where they are."""

import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nlnet.errors import UserError, nearest
from nlnet.reports.sources.run_folders import STATUSES, Run

_HEAD = ("status", "experiment", "seed", "best", "age", "duration", "where")
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

SORTS: Mapping[str, Callable[[Run], Any]] = {
    "newest": lambda run: -run.written,
    "oldest": lambda run: run.written,
    "best": lambda run: -(best if (best := _best(run)) is not None else float("-inf")),
    "duration": lambda run: -(run.number("seconds") or 0),
    "experiment": lambda run: (run.text("experiment"), run.seed is None, run.seed or 0),
    "where": lambda run: str(run.folder),
}
"""The orders of a list, by name; `best` and `duration` have the highest first."""


def select(runs: Sequence[Run], *, status: str | None = None, experiment: str | None = None, sort: str) -> list[Run]:
    """The runs of a status and of experiments like `table2a_*`, in an order of `SORTS`. Raises UserError for others."""
    if sort not in SORTS:
        raise UserError(f"sort={sort}: there is no such order; {nearest(sort, SORTS)}")
    if status is not None and status not in STATUSES:
        raise UserError(f"status={status}: no run is that; {nearest(status, STATUSES)}")
    named = [run for run in runs if experiment is None or fnmatchcase(run.text("experiment"), experiment)]
    return sorted((run for run in named if status is None or run.status == status), key=SORTS[sort])


def listing(runs: Sequence[Run], root: Path) -> list[str]:
    """A line for each run below a line of titles, in columns; places are relative to `root`."""
    now = time.time()
    rows = [_HEAD, *(_row(run, root, now) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(run: Run, root: Path, now: float) -> tuple[str, ...]:
    best, seconds = _best(run), run.number("seconds")
    metric = run.text("monitor")
    return (
        run.status,
        run.text("experiment") + (" (demo)" if run.record.get("demo") is True else ""),
        "" if run.seed is None else str(run.seed),
        "" if best is None else f"{metric} {best:.4g}".strip(),
        _span(now - run.written),
        "" if seconds is None else _span(seconds),
        str(run.folder.relative_to(root)) if run.folder.is_relative_to(root) else str(run.folder),
    )


def _best(run: Run) -> float | None:
    best = run.number("best")
    return run.metric(run.text("monitor")) if best is None else best


def _span(seconds: float) -> str:
    """Such as "14 s", "3.2 h" or "12 d"."""
    for size, name in _UNITS:
        if seconds >= size or name == "s":
            count = max(seconds, 0) / size
            return f"{count:.1f} {name}" if 1 < count < 10 and name != "s" else f"{count:.0f} {name}"
    raise AssertionError
