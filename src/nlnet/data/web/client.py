"""HTTP and HTTPS: one GET or HEAD at a time, within time limits, with the user of a URL, its redirects checked.

A client of its own, because servers are not trusted: it reads no more than it is asked to, and goes from a public
server to none of this machine's or its network's own addresses.
"""

import http.client
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from nlnet.data.web.addresses import is_global, is_public, proxy_for, same_server, user_header
from nlnet.data.web.connections import Clock, Origin
from nlnet.data.web.errors import WebError, described, refused
from nlnet.text import masked

_REDIRECTS, _MOST_REDIRECTS = (301, 302, 303, 307, 308), 10
_PIECE = 1 << 18


class Times(NamedTuple):
    """Seconds: of silence, and of the whole request up to the end of the body, or of its head where `head_only`."""

    stall: float
    whole: float
    head_only: bool = False


class Answer(NamedTuple):
    """The head of an answer, and its body as it comes."""

    status: int
    headers: http.client.HTTPMessage
    pieces: Iterator[bytes]

    @property
    def length(self) -> int | None:
        """Bytes of the body, as the server says."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    @property
    def tag(self) -> str:
        """Another one when the object's content is."""
        return self.headers.get("ETag") or self.headers.get("Last-Modified") or ""

    @property
    def range(self) -> tuple[int, int, int] | None:
        """(begin, end, size of the whole object) of a partial answer that says so; end is past the last byte."""
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", self.headers.get("Content-Range", ""))
        return (int(match[1]), int(match[2]) + 1, int(match[3])) if match else None


@contextmanager
def ask(url: str, times: Times, *, method: str = "GET", span: tuple[int, int] | None = None) -> Iterator[Answer]:
    """What a server answers, after redirects; `span` asks for bytes from the first to before the second.

    Raises FileNotFoundError, EOFError where the object ends before the span, and WebError.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "nlnet"}
    if span:
        headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
    clock = Clock(times.stall, time.monotonic() + times.whole)
    try:
        origin, response = _follow(url, method, headers, clock)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise described(error) from error
    if times.head_only:
        clock.deadline = float("inf")
    try:
        if method == "HEAD":
            response.read()
        _check_status(response, url)
        yield Answer(response.status, response.headers, _pieces(response))
    finally:
        done = response.isclosed() and not response.will_close
        origin.keep() if done else origin.close()


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := response.read1(_PIECE):
            yield piece
        if response.length:
            raise WebError(f"the body ended {response.length} bytes too early")
        response.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise described(error) from error


def _check_status(response: http.client.HTTPResponse, url: str) -> None:
    if response.status not in (200, 206):
        error = refused(response.status)
        raise error if isinstance(error, WebError) else type(error)(f"{url}: {error}")


def _follow(url: str, method: str, headers: Mapping[str, str], clock: Clock) -> tuple[Origin, http.client.HTTPResponse]:
    """The first answer that is no redirect."""
    first = parts = urlsplit(url)
    public: bool | None = None
    for _ in range(_MOST_REDIRECTS):
        own = dict(headers) | (user_header(first) if same_server(parts, first) else {})
        origin, response = _send(parts, method, own, clock, bool(public))
        place = response.headers.get("Location")
        if response.status not in _REDIRECTS or not place:
            return origin, response
        origin.close()
        public = is_public(first) if public is None else public
        parts = urlsplit(urljoin(parts.geturl(), place))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WebError(f"it redirects to {masked(parts.geturl()):.200}, which is no web address", may_pass=False)
        if public and not is_public(parts):
            raise WebError(
                f"a public server redirects to {parts.hostname:.200}, an address of this machine or its network",
                may_pass=False,
            )
    raise WebError(f"more than {_MOST_REDIRECTS} redirects", may_pass=False)


def _send(
    parts: SplitResult, method: str, headers: dict[str, str], clock: Clock, only_public: bool
) -> tuple[Origin, http.client.HTTPResponse]:
    """One request. A connection that the server has closed while it was idle is opened anew."""
    proxy = proxy_for(parts)
    target = quote(parts.path, safe="/!$&'()*+,;=:@~") if not parts.query else f"{parts.path}?{parts.query}"
    target = target or "/"
    if proxy and parts.scheme == "http":
        target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
        headers = headers | user_header(proxy, "Proxy-Authorization")
    while True:
        origin = Origin(parts, proxy, clock)
        try:
            origin.connect()
            if only_public and not proxy and not is_global(origin.peer):
                raise WebError(f"{parts.hostname} leads to {origin.peer}, which is not public", may_pass=False)
            origin.connection.request(method, target, headers=headers)
            return origin, origin.connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            origin.close()
            if not origin.used_before:
                raise
        except BaseException:
            origin.close()
            raise
