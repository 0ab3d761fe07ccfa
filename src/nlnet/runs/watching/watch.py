"""A rank's look at the others, in threads of its own: training may hang in a collective that never returns."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from nlnet.runs.watching.board import Board, Note

SILENCE_S = 60.0
"""After how many seconds without a sign of life a process, or the way to it, is given up."""

_GRACE_S = 10.0  # for the main thread to find its own way out, with everything closed
_LOOKS_A_SECOND = 256  # of all ranks together, at which one server answers them
_BEATS = 3  # that a living process surely gives, one after the other
_SHOWN = 4
_OF_THE_OTHERS = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out", "broken pipe")


class Watch:
    """Watches over one rank and its neighbour, the next rank; so all are watched with two questions a look.

    A run ends when a rank says so (`fail`), when a rank has given no sign of life for a minute, and when no rank has
    got on for `timeout_s`, which counts looks rather than time: a run that is suspended as a whole is not late.

    Args:
        board: where the ranks write.
        timeout_s: how long a rank may stand still.
        give_up: ends this process, with the cause; called where the main thread does not come back by itself.
    """

    def __init__(self, board: Board, timeout_s: float, give_up: Callable[[str], None]) -> None:
        self.board, self.timeout_s, self.give_up = board, timeout_s, give_up
        self.interval = min(max(1.0, board.world_size / _LOOKS_A_SECOND), timeout_s / 10)
        self.silence_s = min(SILENCE_S, timeout_s)
        self.cause: str | None = None
        self._place, self._passes, self._beat = "starts", 0, 0
        self._still_s = self._unheard_s = 0.0
        self._mine: str | None = None  # what this rank ends by
        self._asked = threading.Event()  # the main thread wants to know who is gone
        self._known = threading.Event()
        self._over = threading.Event()
        self._neighbour, self._neighbour_silent_s = Note(), 0.0
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._exchange, self._judge)]
        for thread in self._threads:
            thread.start()

    def at(self, place: str) -> None:
        """The training has come to `place`, as in "rank 1 `place`"."""
        self._passes, self._place = self._passes + 1, place

    def fail(self, words: str) -> None:
        """This rank ends by an error of its own: the others learn of it before it goes."""
        self._mine = f"rank {self.board.rank} failed: {words}"
        self._known.wait(self.interval * 2 * _BEATS)

    def why(self) -> str | None:
        """The first cause of an error that comes from the others; None where it cannot be told."""
        self._asked.set()
        self._known.wait(self.interval * (_BEATS + 2) * 2)
        return self.cause

    def stop(self) -> None:
        """Part from the others in peace, or after `fail` and `why` with what was said there."""
        self._over.set()
        for thread in self._threads:  # one that is still in the store's code would abort a process that exits
            thread.join(_GRACE_S)

    # ---- the thread that talks with the store

    def _exchange(self) -> None:
        survey: list[tuple[int, list[Note]]] = []
        while True:
            last = self._over.is_set()
            with suppress(dist.DistError, RuntimeError, OSError):
                self.board.write(self._note(left=last and not self.cause and not self._mine))
                self._unheard_s = 0.0
                if verdict := self.board.first_cause() or self._verdict(survey):
                    self.cause = self.board.end(verdict)
                    self._known.set()
            if last:
                return
            self._over.wait(self.interval)

    def _note(self, *, left: bool) -> Note:
        self._beat += 1
        where, waits = _where() if self._still_s > self.timeout_s / 4 else ("", False)
        return Note(self._beat, self._passes, self._place, where, waits, left)

    def _verdict(self, survey: list[tuple[int, list[Note]]]) -> str | None:
        """Why the run has to end by what this rank knows."""
        if self._mine:
            return self._mine
        if self._asked.is_set():
            return self._gone(survey)
        next_rank = (self.board.rank + 1) % self.board.world_size
        (note,) = self.board.notes([next_rank])
        heard = note.beat != self._neighbour.beat or note.left
        self._neighbour, self._neighbour_silent_s = note, 0.0 if heard else self._neighbour_silent_s + self.interval
        if self._neighbour_silent_s >= self.silence_s:
            return f"rank {next_rank} has given no sign of life for {self.silence_s:g} s: {_LOST}"
        if self._still_s >= self.timeout_s:
            return stopped(self.board.notes(), self.timeout_s)
        return None

    def _gone(self, survey: list[tuple[int, list[Note]]]) -> str | None:
        """The ranks whose beats have ended, by two looks at all that lie far enough apart."""
        survey.append((self._beat, self.board.notes()))
        (first, before), (now, after) = survey[0], survey[-1]
        if now - first < _BEATS:
            return None
        silent = [
            rank
            for rank, (old, new) in enumerate(zip(before, after, strict=True))
            if old.beat == new.beat and not new.left and rank != self.board.rank
        ]
        if not silent:
            return None
        return f"{_ranks(silent)} ended without a word: {_LOST}"

    # ---- the thread that looks at the clock, whatever the store does

    def _judge(self) -> None:
        passes, over_s = -1, 0.0
        while not self._over.wait(self.interval):
            self._still_s = 0.0 if passes != self._passes else self._still_s + self.interval
            passes = self._passes
            self._unheard_s += self.interval
            if self.cause is None and self._unheard_s >= self.silence_s:
                self.cause = (
                    f"rank {self.board.rank} has had no answer from the machine of rank 0 for {self.silence_s:g} s: it"
                    " is gone, or the network to it"
                )
                self._known.set()
            if self.cause is not None:
                over_s += self.interval
            if over_s >= _GRACE_S:
                self.give_up(self.cause or "")
                return


_LOST = (
    "it was killed (SIGKILL), as a system without free memory does, or stopped (SIGSTOP), or its machine is gone; its"
    " own output may say more"
)
_WAITING = ("torch/distributed/", "torch/nn/parallel/", "torch/autograd/")


def stopped(notes: list[Note], timeout_s: float) -> str:
    """Who holds the others up, by the notes of all ranks when none has gone on for `timeout_s`."""
    least = min((note.passes for note in notes if not note.left), default=0)
    behind = [rank for rank, note in enumerate(notes) if note.passes == least and not note.left]
    behind = [rank for rank in behind if not notes[rank].waits] or behind
    limit = f"{timeout_s:g} s (extras.rank_timeout_s)"
    places = "; ".join(f"rank {rank} {_at(notes[rank])}" for rank in behind[:_SHOWN])
    more = f"; and {len(behind) - _SHOWN} more" if len(behind) > _SHOWN else ""
    if 0 < len(behind) < len(notes):
        return f"{_ranks(behind)} stopped, and the others wait: for {limit}, {places}{more}"
    return f"no rank has gone on for {limit}: {places}{more}"


def of_the_others(error: BaseException) -> bool:
    """Whether an error is what a rank sees of another's end."""
    if isinstance(error, dist.DistError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in words for sign in _OF_THE_OTHERS)


def _at(note: Note) -> str:
    return f"{note.place}{f', at {note.where}' if note.where else ''}"


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:_SHOWN]))
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}{', ...' if len(ranks) > _SHOWN else ''}"


def _where() -> tuple[str, bool]:
    """The line that the main thread is in and that of nlnet which it was called from; whether it waits for others."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return "", False
    stack = traceback.extract_stack(frame)
    ours = [entry for entry in stack if "nlnet" in Path(entry.filename).parts]
    lines = [f"{Path(entry.filename).name}:{entry.lineno} ({entry.name})" for entry in (stack[-1], *ours[-1:])]
    waits = any(part in Path(stack[-1].filename).as_posix() for part in _WAITING)
    return ", in ".join(dict.fromkeys(lines)), waits


def linger(watch: Watch) -> None:
    """Stay for the others to read what is on the board: it goes with the process that serves it."""
    time.sleep(watch.interval * _BEATS)
