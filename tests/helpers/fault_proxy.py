"""A reverse proxy on loopback that records every request and spoils the answers it is told to spoil."""

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("cut", "stall", "500", "503", "truncate", "flip")


@dataclass(frozen=True)
class Request:
    """One request for an object: its place in the sequence of all of them, and the range that was asked for."""

    number: int
    method: str
    path: str
    start: int | None
    end: int | None  # past the last byte

    @property
    def is_read(self) -> bool:
        return self.method == "GET" and self.path.split("?")[0].endswith(".tar")


Rule = Callable[[Request], str | None]


class FaultProxy:
    """Forwards to `upstream` ("host:port"); `rule` says which answer is spoilt, and how (None for not at all).

    cut: the body ends before its length; stall: it stops coming; truncate: a shorter body, said to be whole;
    flip: one byte is another; 500, 403 and so on: that status.
    """

    def __init__(self, upstream: str, rule: Rule = lambda _: None) -> None:
        self.upstream, self.rule = upstream, rule
        self.requests: list[Request] = []
        self.faults: list[tuple[str, Request]] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def reads(self) -> list[Request]:
        """The requests for shards' bytes so far."""
        with self._lock:
            return [request for request in self.requests if request.is_read]

    def note(self, method: str, path: str, range_header: str | None) -> tuple[Request, str | None]:
        start = end = None
        if range_header:
            first, _, last = range_header.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else None
        with self._lock:
            request = Request(len(self.requests), method, path, start, end)
            self.requests.append(request)
            if (fault := self.rule(request)) is not None:
                self.faults.append((fault, request))
        return request, fault

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _forward(self) -> None:
        _, fault = self.proxy.note(self.command, self.path, self.headers.get("Range"))
        length = int(self.headers.get("Content-Length") or 0)
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        upstream.request(self.command, self.path, self.rfile.read(length) if length else None, dict(self.headers))
        answer = upstream.getresponse()
        body = answer.read()
        headers = [h for h in answer.getheaders() if h[0].lower() not in ("content-length", "transfer-encoding")]
        size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        upstream.close()
        with suppress(OSError):  # the client may have given up
            self._answer(answer.status, headers, size or "0", body, fault)

    def _answer(self, status: int, headers: list[tuple[str, str]], size: str, body: bytes, fault: str | None) -> None:
        if fault and fault.isdigit():
            status, headers, body = int(fault), [], b"<Error><Code>SlowDown</Code></Error>"
            size = str(len(body))
        elif fault == "truncate":
            body = body[: len(body) // 2]
            size = str(len(body))
        elif fault == "flip":
            body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
        self.send_response_only(status)
        for name, value in [*headers, ("Content-Length", size)]:
            self.send_header(name, value)
        self.end_headers()
        if fault in ("cut", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            deadline = time.monotonic() + 60
            while fault == "stall" and time.monotonic() < deadline and not self.proxy.closing.is_set():
                time.sleep(0.05)
        elif self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward
