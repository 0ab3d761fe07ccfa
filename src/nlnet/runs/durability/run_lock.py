"""One run folder, one process that writes in it."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from nlnet.distributed import is_first, print_once
from nlnet.errors import UserError
from nlnet.runs.durability.file_lock import open_locked
from nlnet.runs.durability.lock_holder import FILE, HOLDER
from nlnet.saving import CannotWrite, sweep

_POLL_S = 0.5


class RunLock:
    """The lock of a run's folder, held by the first rank until `release`, or until its process ends in any way.

    The file says who holds it. The lock itself is the operating system's, so it does not outlive a killed process;
    loader workers, which another process starts, do not inherit it.
    """

    def __init__(self, folder: Path, wait_s: float = 0.0) -> None:
        """Take the lock, and remove what a killed run has left half-written in the folder.

        `wait_s` is for a process that its scheduler has started again while the one before it still ends.
        Raises UserError if another process holds it.
        """
        self.path = folder / FILE
        self._descriptor: int | None = None
        if not is_first():
            return
        deadline = time.monotonic() + wait_s
        while self._descriptor is None:
            try:
                self._descriptor = self._try(last_time=time.monotonic() >= deadline)
            except OSError as error:
                raise CannotWrite(self.path, error) from error
        sweep(folder)

    def release(self) -> None:
        """Let others in. Without effect if it is not held."""
        if self._descriptor is not None:
            with suppress(OSError):  # a disk that has become read-only
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self, last_time: bool) -> int | None:
        """The lock's descriptor, or None where it has to be tried again. Raises OSError."""
        descriptor, locked = open_locked(self.path)
        try:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            holder = holder if HOLDER.fullmatch(holder) else ""
            if locked and self._is_there(descriptor):
                if holder:
                    print_once(f"{self.path.parent}: {holder} ended without a word; its lock is taken over")
                self.path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
                kept, descriptor = descriptor, -1
                return kept
            if not locked and last_time:
                raise UserError(
                    f"{self.path.parent}: {holder or 'another process'} is writing there; wait until it has ended, or"
                    " choose another folder with paths.run_dir=FOLDER"
                )
            time.sleep(0 if locked else _POLL_S)  # locked: its holder has removed the file between our two steps
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _is_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False
