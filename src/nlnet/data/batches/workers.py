"""The processes that make batches, watched: what became of one that is gone, stopped or silent is said in words."""

import multiprocessing.queues
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.data import DataLoader, get_worker_info

from nlnet.data.batches.packing import pack
from nlnet.errors import UserError

T = TypeVar("T")

POLL_S = 5.0
"""How often it is looked whether they live, while a batch is waited for."""

TIMEOUT_S = 600.0
_SHARED = "/dev/shm"


def report_to(errors: Connection) -> None:
    """In a worker: end it with a word to the main process where a batch cannot be handed over.

    Without this the queue would print a traceback and forget the batch, and the main process wait for it for ever.
    """
    hook = partial(_leave, errors)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(hook)  # type: ignore[attr-defined]


def packed_by_worker(batch: Any) -> Any:
    """In a worker: the batch as it is sent. Raises UserError where there is no shared memory or no file for it."""
    if get_worker_info() is None:
        return batch
    try:
        return pack(batch)
    except (RuntimeError, OSError) as error:
        raise UserError(f"a loader worker could not hand over a batch: {_words(error)}; {_shared_memory()}") from None


def _leave(errors: Connection, error: Exception, _batch: Any) -> None:
    errors.send_bytes(_words(error).encode())
    os._exit(1)


def _words(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:500]


class WorkerWatch:
    """Passes over a DataLoader with workers, in which no batch is waited for without end.

    A thread looks on: the main process may hang in the socket of a worker that is stopped, whatever the DataLoader's
    own time limit. It kills the workers then, which brings the main process back.

    Args:
        loader: with persistent workers.
        timeout_s: how long a batch may be waited for.
        errors: what the workers `report_to`.
    """

    def __init__(self, loader: DataLoader[Any], timeout_s: float, errors: Connection) -> None:
        self.loader, self.timeout_s, self.errors = loader, timeout_s, errors
        self._awaited: int | None = None  # the number of the batch
        self._verdict = ""

    def __iter__(self) -> Iterator[Any]:
        """One pass. Raises UserError when a worker is gone, or has given nothing for too long."""
        over, self._awaited, self._verdict = threading.Event(), 0, ""
        threading.Thread(target=self._look_on, args=(over,), daemon=True).start()
        try:
            iterator = self._guarded(lambda: iter(self.loader))
            while (batch := self._guarded(lambda: next(iterator, None))) is not None:
                number, self._awaited = self._awaited, None
                yield batch
                self._awaited = number + 1
        finally:
            over.set()

    def _look_on(self, over: threading.Event) -> None:
        # Looks are counted and not seconds: a training that was stopped as a whole and goes on has not waited.
        interval, looks, last = min(POLL_S, self.timeout_s / 4), 0, None
        while not over.wait(interval):
            looks = looks + 1 if self._awaited is not None and self._awaited == last else 0
            last = self._awaited
            if looks * interval >= self.timeout_s and (workers := self._workers()):
                self._verdict = self._silent(workers)
                for worker in workers:
                    worker.kill()  # one that is stopped would not obey anything else
                return

    def _guarded(self, step: Callable[[], T]) -> T:
        """What `step` returns; what is behind an error of the workers rather than of their work, in words."""
        try:
            return step()
        except UserError as error:  # a worker's, whose only argument is its traceback
            raise UserError(*str(error.args[0]).rsplit(f"{UserError.__name__}: ", 1)[-1].strip().split("\n")) from None
        except (RuntimeError, EOFError, OSError) as error:
            if not str(error).startswith("Caught ") and any(_ends(worker) for worker in self._workers()):
                raise UserError(self._verdict or self._gone()) from error
            raise

    def _workers(self) -> list[Any]:
        return list(getattr(self.loader._iterator, "_workers", ()))

    def _gone(self) -> str:
        if self.errors.poll():
            words = self.errors.recv_bytes().decode()
            return f"a loader worker could not hand over batch {self._awaited}: {words}; {_shared_memory()}"
        k, worker = next((k, worker) for k, worker in enumerate(self._workers()) if not worker.is_alive())
        return f"loader worker {k} (pid {worker.pid}) {_end(worker.exitcode)}"

    def _silent(self, workers: list[Any]) -> str:
        iterator: Any = self.loader._iterator
        k = iterator._task_info.get(iterator._rcvd_idx, (0,))[0]
        return (
            f"loader worker {k} (pid {workers[k].pid}) has given nothing for {self.timeout_s:g} s"
            f" (data.worker_timeout_s) while batch {self._awaited} was waited for: {_state(workers[k].pid)}"
        )


def _ends(worker: Any) -> bool:
    worker.join(0.5)  # it may be just ending: a batch that lies in its memory is lost before it is gone
    return not worker.is_alive()


def _end(code: int | None) -> str:
    if code == -signal.SIGBUS:
        return f"found no shared memory to write to: {_shared_memory()}"
    if code == -signal.SIGKILL:
        return (
            "was killed (SIGKILL), as a system without free memory does; lower data.num_workers, data.batch_size or"
            " data.read_ahead_mb, or give the run more memory"
        )
    what = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
    return f"{what} before its work was done; data.num_workers=0 shows the error in the training process"


def _state(pid: int) -> str:
    """What a process does, as Linux tells it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except (OSError, IndexError):
        state = ""
    if state in ("T", "t"):
        return f"it is stopped (SIGSTOP); kill -CONT {pid} would have let it go on"
    if state == "D":
        return "it waits for a disk or a network file system"
    return f"it is at work, or waits for data; a slower reader needs a larger data.worker_timeout_s. {_shared_memory()}"


def _shared_memory() -> str:
    """How full it is, and what to do where that is the cause."""
    try:
        found = os.statvfs(_SHARED)
    except OSError:
        return f"there is no {_SHARED}; set data.num_workers=0"
    free, total = (blocks * found.f_frsize / 1e6 for blocks in (found.f_bavail, found.f_blocks))
    return (
        f"{_SHARED} has {free:.3g} of {total:.3g} MB free; batches go through it: make it larger (docker run"
        " --shm-size=8g), or set data.num_workers=0"
    )
