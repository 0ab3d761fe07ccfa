"""Sealed files: PyTorch files that carry a digest of their own bytes, in the comment that ends a zip archive.

Every reader of zip archives skips that comment, so PyTorch reads such a file as any other. PyTorch itself compares no
checksum when it loads.
"""

import errno
import hashlib
import os
import zipfile
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from nlnet.reading import open_regular
from nlnet.saving import sync

_MARK = b"nlnet-sha256:"
_COMMENT = len(_MARK) + 64
_END, _END_SIZE = b"PK\5\6", 22
_PIECE = 1 << 22
_SYNCED_AT_ONCE = 1 << 25


class DamagedError(Exception):
    """A file is not as it was written; the text says what is wrong with it."""


def save_sealed(content: Any, path: Path) -> None:
    """`torch.save` to `path` with a seal, brought to the disk; what was written is read back and compared.

    Raises OSError where the disk does not take it, or gives something else back. `path` is a temporary name, which gets
    its own only if this has worked: see `nlnet.saving.replacing`.
    """
    with open(path, "wb") as file, ThreadPoolExecutor(2) as beside:
        stream = _Sealing(file, beside)
        torch.save(content, cast(BinaryIO, stream))
        stream.seal()
    try:
        with ThreadPoolExecutor(1) as beside:  # the disk works while the processor compares
            synced = beside.submit(sync, path)
            check_whole(path)
        synced.result()
    except DamagedError as error:
        raise OSError(errno.EIO, f"it was read back otherwise than written ({error})") from error


def is_whole(path: Path) -> bool:
    """Whether the file is there and as it was written; see `check_whole`."""
    try:
        check_whole(path)
    except (DamagedError, OSError):
        return False
    return True


def check_whole(path: str | Path) -> None:
    """Raises DamagedError if the file is not as it was written, as far as it can tell.

    A seal tells of every changed bit. A zip archive without one, of another program or an earlier version, has
    checksums of its entries. Files of other kinds pass.
    """
    with open_regular(Path(path)) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 - _COMMENT))
        tail = file.read()
        file.seek(0)
        if _MARK in tail:
            expected = tail[2 + len(_MARK) :]
            regular = tail[:2] == _COMMENT.to_bytes(2, "little") and tail[2:].startswith(_MARK)
            if not regular or _digest(file, size - 2 - _COMMENT).encode() != expected:
                raise DamagedError("the bytes of its zip archive are not those that were written")
        elif file.read(4) == b"PK\3\4":
            if tail[-_END_SIZE:][:4] != _END or tail[-2:] != b"\0\0":
                raise DamagedError("its zip archive does not end as one")
            _check_entries(file)


class _Sealing:
    """A stream that digests what is written to `file`, but for the last two bytes: the length of the comment.

    Digesting, and bringing to the disk what is there already, go on in threads beside the writing.

    It takes an error of the disk in silence and raises it in `seal`: PyTorch's writer must not see one half-way, since
    it would go on writing from a destructor.
    """

    def __init__(self, file: BinaryIO, beside: Executor) -> None:
        self._file, self._beside, self._digest = file, beside, hashlib.sha256()
        self._last = b""
        self._error: OSError | None = None
        self._waiting = 0
        self._syncing: Future[None] | None = None

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        if self._error is None:
            digesting = self._beside.submit(self._take, view)
            try:
                self._file.write(view)
                self._sync_beside(len(view))
            except OSError as error:
                self._error = error
            digesting.result()  # PyTorch takes the memory back
        return len(view)

    def _sync_beside(self, count: int) -> None:
        self._waiting += count
        if self._waiting >= _SYNCED_AT_ONCE and (self._syncing is None or self._syncing.done()):
            self._waiting = 0
            self._syncing = self._beside.submit(os.fsync, self._file.fileno())

    def _take(self, view: memoryview) -> None:
        if len(view) < 2:
            known = self._last + view
            self._digest.update(known[:-2])
            self._last = known[-2:]
        else:
            self._digest.update(self._last)
            self._digest.update(view[:-2])
            self._last = bytes(view[-2:])

    def flush(self) -> None:
        """Nothing before `seal`."""

    def seal(self) -> None:
        if self._error is None and self._last != b"\0\0":
            raise ValueError("PyTorch has written something else than a zip archive without a comment")
        if self._error is not None:
            raise self._error
        if self._syncing is not None:
            self._syncing.result()
        self._file.seek(-2, 1)
        self._file.write(_COMMENT.to_bytes(2, "little") + _MARK + self._digest.hexdigest().encode())


def _digest(file: BinaryIO, length: int) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_PIECE)
    while length:
        count = file.readinto(memoryview(buffer)[: min(length, _PIECE)])  # type: ignore[attr-defined]
        if not count:
            break
        digest.update(memoryview(buffer)[:count])
        length -= count
    return digest.hexdigest()


def _check_entries(file: BinaryIO) -> None:
    """Compare the checksums of what is stored in a zip archive as it is; PyTorch packs nothing."""
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type == zipfile.ZIP_STORED:
                    with archive.open(entry) as content:
                        while content.read(_PIECE):
                            pass
    except Exception as error:  # a damaged archive makes the reader fail in any way
        raise DamagedError(f"in its zip archive: {error}") from error
