"""Bytes from anywhere: a local path, `s3://`, `gs://`, `az://`, `http(s)://`, whole or by range.

Remote reads go through obstore, configured by each service's usual environment variables (`AWS_ENDPOINT_URL`,
`AWS_REGION`, `AWS_ACCESS_KEY_ID`, ...). After a cut connection, a stall, a 5xx answer or a body that is too short
they are tried again, with growing pauses, until a time limit.
"""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from nlnet.errors import UserError

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az", "http", "https")
TIMEOUT_S = 60.0
# Within one limit: a connection that is silent for a sixth of it is given up, a request after a third, and no request
# starts in the last third; so a read never takes longer than the limit.
STALL, ATTEMPT = 1 / 6, 1 / 3
_PAUSE_S = 0.1, 5.0  # before the second attempt, doubled each time; at most
_PLAIN_SLOWEST = 64 << 10  # bytes per second below which a download of a whole object is given up
_CERTIFICATE = re.compile(r"InvalidCertificate\(\W*(\w+)")
_pauses = random.Random()  # not the global generator: a retry must not change a run's randomness


class StorageError(OSError):
    """Bytes that could not be had: the URL, the cause, and how often it was tried."""


class RangesUnsupported(StorageError):
    """The server answers a request for a range with the whole object."""


class Traffic:
    """Bytes read and requests repeated, counted by any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = self.retries = 0

    def add(self, count: int = 0, retries: int = 0) -> None:
        with self._lock:
            self.bytes += count
            self.retries += retries

    def take(self) -> tuple[int, int]:
        """(bytes, retries) since the last call."""
        with self._lock:
            counted = self.bytes, self.retries
            self.bytes = self.retries = 0
        return counted


class Stat(NamedTuple):
    """An object's size in bytes, and a tag that is another one when its content is."""

    size: int
    tag: str


def is_remote(url: str) -> bool:
    """Whether `url` names an object store or a web server rather than a local path."""
    return "://" in url and not url.startswith("file://")


def join(root: str, name: str) -> str:
    """`name` inside the folder or prefix `root`."""
    return f"{root.rstrip('/')}/{name}"


def read_bytes(url: str, *, timeout_s: float = TIMEOUT_S, traffic: Traffic | None = None) -> bytes:
    """The whole object or file. Raises FileNotFoundError where there is none, and StorageError."""
    if not is_remote(url):
        return _local(url).read_bytes()
    import obstore

    store, path = _locate(url, timeout_s)
    return _retry(lambda: bytes(obstore.get(store, path).bytes()), url, timeout_s, traffic)


def read_range(
    url: str, offset: int, length: int, *, timeout_s: float = TIMEOUT_S, traffic: Traffic | None = None
) -> bytes:
    """Bytes `offset` to `offset + length`, within `timeout_s` seconds.

    Raises EOFError where the object ends before, FileNotFoundError where there is none, RangesUnsupported where the
    server knows no ranges, and StorageError for everything else.
    """
    if not is_remote(url):
        with open(_local(url), "rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise EOFError(f"{url}: wanted {length} bytes at {offset}, got {len(data)}")
        if traffic:
            traffic.add(length)
        return data
    store, path = _locate(url, timeout_s)
    return _retry(lambda: _get_range(store, path, url, offset, length), url, timeout_s, traffic)


def download(url: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[bytes]:
    """The whole object in pieces, in one request: for servers without ranges. Raises as `read_range` does.

    The time limit is of silence (a sixth of `timeout_s`) and of a rate below 64 KiB/s over more than `timeout_s`.
    """
    import obstore

    store, path = _locate(url, timeout_s, whole=True)
    began, count = time.monotonic(), 0
    try:
        answer = obstore.get(store, path)
        for piece in answer.stream(min_chunk_size=1 << 20):
            count += len(piece)
            if time.monotonic() - began > timeout_s + count / _PLAIN_SLOWEST:
                raise TimeoutError(f"only {count} bytes in {time.monotonic() - began:.0f} s")
            yield bytes(piece)
        if count != answer.meta["size"]:
            raise TimeoutError(f"the body ended after {count} of {answer.meta['size']} bytes")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise StorageError(f"{url}: {_cause(error)}") from error


def stat(url: str, *, timeout_s: float = TIMEOUT_S) -> Stat:
    """Size and tag. Raises FileNotFoundError where there is no such object, and StorageError."""
    if not is_remote(url):
        status = _local(url).stat()
        return Stat(status.st_size, str(status.st_mtime_ns))
    import obstore

    store, path = _locate(url, timeout_s)
    meta = _retry(lambda: obstore.head(store, path), url, timeout_s, None)
    return Stat(meta["size"], str(meta["e_tag"] or meta["last_modified"]))


def list_folder(url: str, suffix: str, *, timeout_s: float = TIMEOUT_S) -> list[str]:
    """The names directly inside a folder or prefix that end in `suffix`, sorted. Web servers cannot be listed."""
    if not is_remote(url):
        folder = _local(url)
        return sorted(path.name for path in folder.glob(f"*{suffix}")) if folder.is_dir() else []
    if url.startswith("http"):
        raise UserError(f"{url}: a web server does not list its files; name the shards: {url}/name-{{000000..000009}}")
    import obstore

    store, path = _locate(url, timeout_s)
    listing = _retry(lambda: obstore.list_with_delimiter(store, path), url, timeout_s, None)
    names = [entry["path"].rsplit("/", 1)[-1] for entry in listing["objects"]]
    return sorted(name for name in names if name.endswith(suffix))


def _get_range(store: Any, path: str, url: str, offset: int, length: int) -> bytes:
    import obstore

    answer = obstore.get(store, path, options={"range": (offset, offset + length)})
    data = bytes(answer.bytes())
    if len(data) == length:
        return data
    if answer.meta["size"] < offset + length:
        raise EOFError(f"{url}: wanted {length} bytes at {offset}, got {len(data)} of {answer.meta['size']}")
    raise TimeoutError(f"the body ended after {len(data)} of {length} bytes")


def _retry(attempt: Callable[[], T], url: str, timeout_s: float, traffic: Traffic | None) -> T:
    """What `attempt` returns; failures that may pass are tried again while there is time."""
    from obstore.exceptions import NotSupportedError

    began, tries, pause = time.monotonic(), 0, _PAUSE_S[0]
    while True:
        tries += 1
        try:
            result = attempt()
        except (FileNotFoundError, EOFError):
            raise
        except NotSupportedError as error:
            raise RangesUnsupported(f"{url}: {_cause(error)}") from None
        except Exception as error:
            if "status code: 416" in str(error):
                raise EOFError(f"{url}: the object ends before the wanted bytes") from None
            wait = pause * _pauses.uniform(0.5, 1.0)
            seconds = time.monotonic() - began
            if not _may_pass(error) or seconds + wait > timeout_s * (1 - ATTEMPT):
                raise StorageError(f"{url}: {_cause(error)}; tried {tries} times in {seconds:.1f} s") from error
            if traffic:
                traffic.add(retries=1)
            time.sleep(wait)
            pause = min(2 * pause, _PAUSE_S[1])
            continue
        if traffic and isinstance(result, bytes):
            traffic.add(len(result))
        return result


def _may_pass(error: Exception) -> bool:
    """Whether trying again makes sense: not where the server has understood and refuses (400, 401, 403, ...)."""
    from obstore.exceptions import GenericError

    text = str(error)
    refused = "status code: 4" in text and "status code: 408" not in text and "status code: 429" not in text
    refused = refused or _CERTIFICATE.search(text) is not None
    return isinstance(error, GenericError | TimeoutError) and not refused


def _cause(error: Exception) -> str:
    """The first line of an error, with the innermost reason where the client hides it below."""
    text = str(error)
    first = text.strip().splitlines()[0][:200] if text.strip() else type(error).__name__
    if reason := _CERTIFICATE.search(text):
        return f"its certificate is not trusted ({reason[1]})"
    if "kind: Timeout" in text:
        return f"timed out ({first})"
    return f"the connection broke ({first})" if "kind: Interrupted" in text else first


def _local(url: str) -> Path:
    return Path(url.removeprefix("file://"))


def _locate(url: str, timeout_s: float, whole: bool = False) -> tuple[Any, str]:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise UserError(f"{url}: unknown scheme {parts.scheme!r}; known: a local path, {', '.join(SCHEMES)}")
    # One client per process: a client shared over a fork would wait for threads that the child does not have.
    store = _store(f"{parts.scheme}://{parts.netloc}", os.getpid(), timeout_s, whole)
    return store, parts.path.lstrip("/")


@lru_cache
def _store(root: str, _pid: int, timeout_s: float, whole: bool) -> Any:
    from obstore.store import from_url

    client: Any = {
        "connect_timeout": f"{round(1000 * timeout_s * STALL)}ms",
        "read_timeout": f"{round(1000 * timeout_s * STALL)}ms",
        "timeout": "365d" if whole else f"{round(1000 * timeout_s * ATTEMPT)}ms",
    }
    if root.startswith("http://") or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        client["allow_http"] = True
    # Its own retries are off: they have a limit of their own and are not counted.
    no_retries: Any = {"max_retries": 0}
    return from_url(root, client_options=client, retry_config=no_retries)
