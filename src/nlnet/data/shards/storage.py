"""Bytes from anywhere: a local path, `s3://`, `gs://`, `az://`, `http(s)://`, whole or by range.

Object stores are read by obstore, configured by each service's usual environment variables (`AWS_ENDPOINT_URL`,
`AWS_REGION`, `AWS_ACCESS_KEY_ID`, ...), web servers by `nlnet.data.web`. After a cut connection, a stall, a 5xx answer
or a body that is too short they are asked again, with growing pauses, until a time limit. Bodies are read in pieces,
and no further than was asked for.
"""

import io
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from nlnet import reading
from nlnet.data.web.client import Times, ask
from nlnet.data.web.errors import WebError, of_store
from nlnet.errors import UserError
from nlnet.limits import Limit

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az", "http", "https")
TIMEOUT_S = 60.0
# Within one limit: a connection that is silent for a sixth of it is given up, a request after a third, and no request
# starts in the last third; so a read never takes longer than the limit.
STALL, ATTEMPT = 1 / 6, 1 / 3
LONGEST = 8 << 20  # bytes that are taken from an object store in one piece
_PAUSE_S = 0.1, 5.0  # before the second attempt, doubled each time; at most
_PLAIN_SLOWEST = 64 << 10  # bytes per second below which a download of a whole object is given up
UNREACHABLE_S = 10.0
"""Seconds after which a server that nobody answers for is given up, where a run has not begun to read."""

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


def is_web(url: str) -> bool:
    """Whether a web server has it."""
    return url.startswith(("http://", "https://"))


def join(root: str, name: str) -> str:
    """`name` inside the folder or prefix `root`; what follows a `?` in a web address, a signature say, stays behind."""
    folder, mark, query = root.partition("?") if is_web(root) else (root, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def read_bytes(url: str, limit: Limit, *, timeout_s: float = TIMEOUT_S, traffic: Traffic | None = None) -> bytes:
    """The whole object or file. Raises FileNotFoundError where there is none, TooLarge, and StorageError."""
    if not is_remote(url):
        return reading.read_bytes(_local(url), limit)
    return _retry(lambda: _get_whole(url, timeout_s, limit), url, timeout_s, traffic, UNREACHABLE_S)


def read_range(
    url: str, offset: int, length: int, *, timeout_s: float = TIMEOUT_S, traffic: Traffic | None = None
) -> bytes:
    """Bytes `offset` to `offset + length`, within `timeout_s` seconds.

    Raises EOFError where the object ends before, FileNotFoundError where there is none, RangesUnsupported where the
    server knows no ranges, and StorageError for everything else.
    """
    if not is_remote(url):
        with open(_local(url), "rb") as file:
            there = max(0, os.fstat(file.fileno()).st_size - offset)
            if there < length:  # reading allocates what is asked for
                raise EOFError(f"{url}: wanted {length} bytes at {offset}, got {there}")
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise EOFError(f"{url}: wanted {length} bytes at {offset}, got {len(data)}")
        if traffic:
            traffic.add(length)
        return data
    return _retry(lambda: _get_range(url, timeout_s, offset, length), url, timeout_s, traffic)


def download(url: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[bytes]:
    """The whole object in pieces, in one request: for servers without ranges. Raises as `read_range` does.

    The time limit is of silence (a sixth of `timeout_s`) and of a rate below 64 KiB/s over more than `timeout_s`.
    """
    began, count = time.monotonic(), 0
    try:
        with _opened(url, timeout_s, whole=True) as body:
            for piece in body.pieces:
                count += len(piece)
                if time.monotonic() - began > timeout_s + count / _PLAIN_SLOWEST:
                    raise TimeoutError(f"only {count} bytes in {time.monotonic() - began:.0f} s")
                yield piece
            if body.length is not None and count != body.length:
                raise TimeoutError(f"the body ended after {count} of {body.length} bytes")
    except Exception as error:
        cause = of_store(error)
        if isinstance(cause, FileNotFoundError):
            raise _at(url, cause) from None
        raise StorageError(f"{url}: {cause}") from error


def stat(url: str, *, timeout_s: float = TIMEOUT_S) -> Stat:
    """Size and tag. Raises FileNotFoundError where there is no such object, and StorageError."""
    if not is_remote(url):
        status = _local(url).stat()
        return Stat(status.st_size, str(status.st_mtime_ns))
    return _retry(lambda: _stat(url, timeout_s), url, timeout_s, None, UNREACHABLE_S)


def list_folder(url: str, suffix: str, *, timeout_s: float = TIMEOUT_S) -> list[str]:
    """The names directly inside a folder or prefix that end in `suffix`, sorted. Web servers cannot be listed."""
    if not is_remote(url):
        folder = _local(url)
        return sorted(path.name for path in folder.glob(f"*{suffix}")) if folder.is_dir() else []
    if is_web(url):
        raise UserError(f"{url}: a web server does not list its files; name the shards: {url}/name-{{000000..000009}}")
    import obstore

    store, path = _locate(url, timeout_s)
    listing = _retry(lambda: obstore.list_with_delimiter(store, path), url, timeout_s, None, UNREACHABLE_S)
    names = [entry["path"].rsplit("/", 1)[-1] for entry in listing["objects"]]
    return sorted(name for name in names if name.endswith(suffix))


def web_page(data: bytes) -> str:
    """What to add to a message about bytes that are none of a shard, where they begin as a web page does."""
    start = data[:200].lstrip()[:60].decode("utf-8", "replace")
    is_page = start.lower().startswith(("<!doctype", "<html", "<?xml", "<head"))
    return f"; what came is a web page ({start!r})" if is_page else ""


class _Body(NamedTuple):
    """What an object's bytes come in; `length` of the body and `size` of the object as the server says."""

    pieces: Iterator[bytes]
    length: int | None
    size: int | None


@contextmanager
def _opened(url: str, timeout_s: float, span: tuple[int, int] | None = None, whole: bool = False) -> Iterator[_Body]:
    """The bytes of an object, or a span of them, as they come; `whole` for those that may take long."""
    if is_web(url):
        times = Times(timeout_s * STALL, timeout_s * ATTEMPT, head_only=whole)
        with ask(url, times, span=span) as answer:
            if span and answer.status == HTTPStatus.OK:
                raise RangesUnsupported(f"{url}: it answers a request for a range with the whole object")
            if span and (not answer.range or answer.range[0] != span[0]):
                raise WebError("it answers with another range than was asked for", may_pass=False)
            yield _Body(answer.pieces, answer.length, answer.range[2] if answer.range else answer.length)
        return
    import obstore

    store, path = _locate(url, timeout_s, whole)
    found = obstore.get(store, path, options={"range": span} if span else None)
    size = found.meta["size"]
    # In one piece where it fits, which spares copying it.
    chunk = min(span[1] - span[0] if span else size, LONGEST)
    yield _Body(map(bytes, found.stream(min_chunk_size=max(1, chunk))), None if span else size, size)


def _get_whole(url: str, timeout_s: float, limit: Limit) -> bytes:
    with _opened(url, timeout_s) as body:
        if body.length is not None:
            limit.check(body.length, url)
        data = _collected(body.pieces, limit.most)
        if data is None:
            raise limit.excess(url)
        if body.length is not None and len(data) != body.length:
            raise TimeoutError(f"the body ended after {len(data)} of {body.length} bytes")
    return data


def _get_range(url: str, timeout_s: float, offset: int, length: int) -> bytes:
    if not length:  # no range has a name for it
        return b""
    with _opened(url, timeout_s, (offset, offset + length)) as body:
        data = _collected(body.pieces, length)
    if data is None:
        raise StorageError(f"{url}: more than the {length} bytes came that were asked for")
    if len(data) == length:
        return data
    if body.size is not None and body.size < offset + length:
        raise EOFError(f"{url}: wanted {length} bytes at {offset}, got {len(data)} of {body.size}")
    raise TimeoutError(f"the body ended after {len(data)} of {length} bytes")


def _collected(pieces: Iterator[bytes], most: int) -> bytes | None:
    """All pieces in one; None where they are more than `most` bytes."""
    first = next(pieces, b"")
    data = io.BytesIO()
    data.write(first)
    for piece in pieces:
        if data.tell() > most:
            break
        data.write(piece)
    if data.tell() > most:
        return None
    return first if data.tell() == len(first) else data.getvalue()


def _stat(url: str, timeout_s: float) -> Stat:
    if not is_web(url):
        import obstore

        store, path = _locate(url, timeout_s)
        meta = obstore.head(store, path)
        return Stat(meta["size"], str(meta["e_tag"] or meta["last_modified"]))
    return _stat_web(url, Times(timeout_s * STALL, timeout_s * ATTEMPT))


def _stat_web(url: str, times: Times) -> Stat:
    """From a HEAD, or where that is refused, as by a signature for GET alone, from a GET for the first byte."""
    if "?" not in url:
        try:
            with ask(url, times, method="HEAD") as answer:
                if answer.length is not None:
                    return Stat(answer.length, answer.tag)
        except FileNotFoundError:
            pass
        except WebError as error:
            if error.status is None:
                raise
    try:
        with ask(url, times, span=(0, 1)) as answer:
            size, tag = answer.range[2] if answer.range else answer.length, answer.tag
    except EOFError:  # not even one byte
        return Stat(0, "")
    if size is None:
        raise WebError("it does not say how long the object is", may_pass=False)
    return Stat(size, tag)


def _retry(
    attempt: Callable[[], T], url: str, timeout_s: float, traffic: Traffic | None, unreachable_s: float = math.inf
) -> T:
    """What `attempt` returns; failures that may pass are tried again while there is time."""
    from obstore.exceptions import NotSupportedError

    began, tries, pause = time.monotonic(), 0, _PAUSE_S[0]
    while True:
        tries += 1
        try:
            result = attempt()
        except (UserError, StorageError):
            raise
        except NotSupportedError as error:
            raise RangesUnsupported(f"{url}: {of_store(error)}") from None
        except Exception as error:
            cause = of_store(error)
            if not isinstance(cause, WebError):
                raise _at(url, cause) from None
            wait = pause * _pauses.uniform(0.5, 1.0)
            seconds = time.monotonic() - began
            time_left = min(timeout_s * (1 - ATTEMPT), unreachable_s if cause.unreachable else math.inf)
            if not cause.may_pass or seconds + wait > time_left:
                raise StorageError(f"{url}: {cause}; tried {tries} times in {seconds:.1f} s") from error
            if traffic:
                traffic.add(retries=1)
            time.sleep(wait)
            pause = min(2 * pause, _PAUSE_S[1])
            continue
        if traffic and isinstance(result, bytes):
            traffic.add(len(result))
        return result


def _at(url: str, error: OSError | EOFError) -> OSError | EOFError:
    """The same error, which names the URL."""
    return error if str(error).startswith(url) else type(error)(f"{url}: {error}")


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
