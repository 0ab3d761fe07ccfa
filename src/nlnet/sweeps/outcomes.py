"""What became of the points of a sweep: read from their folders, told line by line and in a table."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from nlnet.runs.run_dir import newest_checkpoint, read_record
from nlnet.text import line, say

LOG = "train.log"
_TAIL = 4000


@dataclass(frozen=True)
class Outcome:
    """The end of one point: `status` is finished, failed, or interrupted."""

    name: str
    status: str
    value: float | None = None
    seconds: float | None = None
    reason: str = ""


def is_finished(folder: Path) -> bool:
    """Whether the run in this folder is done."""
    return read_record(folder).get("status") == "finished"


def continuing(folder: Path) -> list[str]:
    """The words by which the run in this folder goes on; none where it has nothing to go on from."""
    return ["ckpt_path=last"] if newest_checkpoint(folder) is not None else []


def outcome(folder: Path, code: int | None = None) -> Outcome:
    """What the folder of a point says of it; `code` is the exit code of its process, None where it is another's."""
    record = read_record(folder)
    status, value, seconds = record.get("status"), record.get("best"), record.get("seconds")
    if status == "finished" and not code:
        return Outcome(folder.name, "finished", value, seconds)
    if code is not None and (code < 0 or code > 128):  # of a signal
        return Outcome(folder.name, "interrupted", seconds=seconds, reason="start again to continue")
    reason = record.get("reason") if status == "failed" else None
    return Outcome(folder.name, "failed", seconds=seconds, reason=str(reason or _last_line(folder / LOG)))


def _last_line(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((text.strip() for text in reversed(lines) if text.strip()), "")


class Told:
    """Lines on standard error for what begins and ends, with an estimate of the rest."""

    def __init__(self, total: int) -> None:
        self.total, self.begin, self.ended, self.skipped = total, time.monotonic(), 0, 0

    def skip(self, number: int) -> None:
        """So many were done before."""
        self.skipped = number
        if number:
            say(f"{number} of {self.total} points are finished already", error=True)

    def start(self, name: str, goes_on: bool) -> None:
        """A point begins."""
        say(f"{name}: {'continues' if goes_on else 'starts'}", error=True)

    def end(self, result: Outcome) -> None:
        """A point has ended, here or in another sweeper."""
        self.ended += 1
        done = self.skipped + self.ended
        left = self.total - done
        rest = (time.monotonic() - self.begin) / self.ended * left
        eta = f"; {left} left, ETA {timedelta(seconds=round(rest))}" if left else ""
        say(f"[{done}/{self.total}] {result.name}: {_words(result)}{eta}", error=True)


def table(results: Sequence[Outcome]) -> list[str]:
    """One line a point."""
    width = max((len(result.name) for result in results), default=0)
    return [f"{result.name:{width}}  {_words(result)}" for result in results]


def _words(result: Outcome) -> str:
    value = "" if result.value is None else f"  {result.value:.4f}"
    took = "" if result.seconds is None else f"  in {timedelta(seconds=round(result.seconds))}"
    return f"{result.status}{value}{took}{f': {line(result.reason)}' if result.reason else ''}"
