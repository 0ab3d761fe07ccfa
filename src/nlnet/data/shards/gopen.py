"""The same storage for WebDataset's own pipelines: `s3://`, `gs://`, `az://`, `http(s)://` with retries."""

import io
from typing import Any

from webdataset import gopen_schemes

from nlnet import limits
from nlnet.data.shards import storage
from nlnet.data.shards.cache import PIECE, PIPE, run_pipe
from nlnet.data.shards.source import check_pipe
from nlnet.data.shards.storage import SCHEMES, RangesUnsupported


def register_gopen(*, timeout_s: float = storage.TIMEOUT_S, allow_pipe: bool = False) -> None:
    """Make `webdataset` open URLs of the schemes above through this package, for reading.

    `pipe:` commands are refused unless `allow_pipe`; a command that fails raises StorageError at the end of its output.
    """

    def open_remote(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> io.BufferedIOBase:
        _check_mode(url, mode)
        return open_url(url, timeout_s)

    def open_pipe(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> io.BufferedIOBase:
        _check_mode(url, mode)
        url = url if url.startswith(PIPE) else PIPE + url
        check_pipe(url, allow_pipe)
        return io.BytesIO(b"".join(run_pipe(url, timeout_s)))

    gopen_schemes.update(dict.fromkeys(SCHEMES, open_remote))
    gopen_schemes["pipe"] = open_pipe


def open_url(url: str, timeout_s: float = storage.TIMEOUT_S) -> io.BufferedIOBase:
    """A remote object as a file: read by ranges as it is consumed, or whole where the server knows no ranges."""
    size = storage.stat(url, timeout_s=timeout_s).size
    try:
        storage.read_range(url, 0, min(1, size), timeout_s=timeout_s)
    except RangesUnsupported:
        return io.BytesIO(storage.read_bytes(url, limits.SHARD, timeout_s=timeout_s))
    return io.BufferedReader(_Ranges(url, size, timeout_s), PIECE)


class _Ranges(io.RawIOBase):
    def __init__(self, url: str, size: int, timeout_s: float) -> None:
        self.url, self.size, self.timeout_s, self.position = url, size, timeout_s, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self.size - self.position)
        if length > 0:
            data = storage.read_range(self.url, self.position, length, timeout_s=self.timeout_s)
            buffer[:length] = data
            self.position += length
        return max(length, 0)


def _check_mode(url: str, mode: str) -> None:
    if mode != "rb":
        raise ValueError(f"{url}: mode {mode!r}; shards are only read here")
