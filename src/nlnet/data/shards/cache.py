"""Whole shards kept on a local disk, shared by any number of processes."""

import fcntl
import hashlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nlnet.data.shards import storage
from nlnet.data.shards.storage import RangesUnsupported, StorageError, Traffic
from nlnet.errors import UserError
from nlnet.saving import publish

PIECE = 8 << 20  # bytes of one request
_ATTEMPTS = 4
PIPE = "pipe:"


class _Spoilt(StorageError):
    """A shard that came, but not whole or not right: worth fetching again. A range that fails has been tried enough."""


class ShardCache:
    """Files named after the whole URL; the least recently used go when there are more than `limit` bytes.

    A shard is filled by one process while the others wait for it, checked against its SHA-256, and appears under its
    name at once and whole.
    """

    def __init__(self, folder: Path, limit: int, timeout_s: float, traffic: Traffic) -> None:
        self.folder, self.limit, self.timeout_s, self.traffic = folder, limit, timeout_s, traffic
        self._broken: dict[str, OSError] = {}

    def read_range(self, url: str, size: int, sha256: str, offset: int, length: int) -> bytes:
        """Bytes `offset` to `offset + length` of the shard `url`, which has `size` bytes and the SHA-256 `sha256`.

        Raises StorageError where it cannot be filled; that is remembered and not tried for every sample again.
        """
        while True:
            try:
                with open(self.path(url, size, sha256), "rb") as file:
                    file.seek(offset)
                    data = file.read(length)
                break
            except FileNotFoundError:  # another process has just made room
                if url in self._broken or not self.folder.is_dir():
                    raise
        if len(data) != length:
            raise EOFError(f"{url}: wanted {length} bytes at {offset}, got {len(data)}")
        return data

    def name(self, url: str) -> str:
        """The file's name: a hash of the whole URL, and its last part for people."""
        return f"{hashlib.sha256(url.encode()).hexdigest()[:24]}-{re.sub(r'[^A-Za-z0-9._-]', '_', url)[-60:]}"

    def path(self, url: str, size: int | None = None, sha256: str | None = None) -> Path:
        """The file of the shard, filled if need be; None for what is not known yet."""
        path = self.folder / self.name(url)
        if not path.is_file():
            if size is not None and size > self.limit:
                raise UserError(f"{url}: {size} bytes do not fit into data.cache_gb={self.limit / 1e9:g}; raise it")
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / f".{path.name}.lock"):
                if not path.is_file():
                    if url in self._broken:
                        raise self._broken[url].with_traceback(None)  # or every raise would add to it
                    try:
                        self._fill(url, size, sha256, path)
                    except (StorageError, FileNotFoundError) as error:
                        self._broken[url] = error
                        raise
                    except OSError as error:  # of the disk, which says neither what nor where
                        raise OSError(error.errno, f"{error.strerror}, the cache folder", str(self.folder)) from error
        os.utime(path)  # the time of the last use
        return path

    def _fill(self, url: str, size: int | None, sha256: str | None, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._fetch(url, size, sha256, temporary)
                    break
                except _Spoilt as error:
                    if attempt == _ATTEMPTS:
                        raise StorageError(f"{error}; fetched {attempt} times") from error
                    self.traffic.add(retries=1)
                    time.sleep(self.timeout_s / 100 * 2**attempt)
            self._make_room(temporary.stat().st_size)
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _fetch(self, url: str, size: int | None, sha256: str | None, to: Path) -> None:
        digest, count = hashlib.sha256(), 0
        with open(to, "wb") as file:
            for piece in self._pieces(url, size):
                count += len(piece)
                if count > (self.limit if size is None else size):
                    break
                digest.update(piece)
                file.write(piece)
        if size is None and count > self.limit:
            raise UserError(f"{url}: does not fit into data.cache_gb={self.limit / 1e9:g}; raise it")
        if size is not None and count != size:
            more = "more than " if count > size else ""
            came = f"{more}{count if count < size else size} bytes came instead of {size}"
            with open(to, "rb") as file:
                raise _Spoilt(f"{url}: {came}{storage.web_page(file.read(200))}")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise _Spoilt(f"{url}: its SHA-256 is not the manifest's")

    def _pieces(self, url: str, size: int | None) -> Iterator[bytes]:
        if url.startswith(PIPE):
            pieces = run_pipe(url, self.timeout_s)
        elif size is None:
            pieces = storage.download(url, timeout_s=self.timeout_s)
        else:
            try:
                for offset in range(0, size, PIECE):
                    length = min(PIECE, size - offset)
                    yield storage.read_range(url, offset, length, timeout_s=self.timeout_s, traffic=self.traffic)
                return
            except RangesUnsupported:  # at the first range already
                pieces = storage.download(url, timeout_s=self.timeout_s)
            except EOFError as error:
                raise StorageError(str(error)) from error
        try:
            for piece in pieces:
                self.traffic.add(len(piece))
                yield piece
        except StorageError as error:
            raise _Spoilt(str(error)) from error

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago, until `size` more bytes fit; and what a killed process left half done."""
        with locked(self.folder / ".evict.lock"):
            for leftover in self.folder.glob(".*.tmp"):
                with locked(leftover.with_suffix(".lock"), wait=False) as free:
                    if free:
                        leftover.unlink(missing_ok=True)
            files = [(path.stat(), path) for path in self.folder.iterdir() if not path.name.startswith(".")]
            total = sum(status.st_size for status, _ in files)
            for status, path in sorted(files, key=lambda entry: entry[0].st_mtime_ns):
                if total + size <= self.limit:
                    break
                path.unlink(missing_ok=True)
                total -= status.st_size


def default_folder() -> Path:
    """Where shards are kept that have to be, unless data.cache_dir says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nlnet"


def run_pipe(url: str, timeout_s: float) -> Iterator[bytes]:
    """What the command after `pipe:` writes. Raises StorageError where it fails or is silent for `timeout_s`."""
    command = subprocess.Popen(url.removeprefix(PIPE), shell=True, stdout=subprocess.PIPE, start_new_session=True)
    assert command.stdout is not None
    try:
        while select.select([command.stdout], [], [], timeout_s)[0]:
            if not (piece := os.read(command.stdout.fileno(), 1 << 20)):
                break
            yield piece
        else:
            raise StorageError(f"{url}: silent for {timeout_s:g} s")
        if code := command.wait(timeout_s):
            raise StorageError(f"{url}: the command ended with exit code {code}")
    except subprocess.TimeoutExpired:
        raise StorageError(f"{url}: the command did not end") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)  # and what it has started
        command.wait()
        command.stdout.close()


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Whether the lock is held, which it always is after waiting for it."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
