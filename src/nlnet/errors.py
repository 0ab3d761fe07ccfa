"""The exceptions that commands turn into a message and an exit code, and the nearest-name helper messages share."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from nlnet.text import line


class UserError(Exception):
    """A mistake in configuration, paths or data files.

    The commands print its message alone, without a traceback, and exit with code 1. The message says what is wrong,
    where, with which value, and how to fix it. What it quotes may come from anywhere, so each of its arguments is one
    line of the message whatever is in it, and secrets in it are masked.
    """

    def __str__(self) -> str:
        return "\n".join(map(line, self.args))


class RunInterrupted(BaseException):
    """A signal asked the run to stop, and it has stopped where it can be resumed. `signal` is its number."""

    def __init__(self, number: int, checkpoint: Path | None) -> None:
        super().__init__(f"stopped by signal {number}")
        self.signal, self.checkpoint = number, checkpoint


def nearest(name: str, names: Iterable[str]) -> str:
    """A phrase for the end of a message: the names most like `name`, or all of them where none is like it."""
    known = sorted(set(names))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"nearest: {', '.join(close)}"
    return f"known: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}" if known else "none is known"
