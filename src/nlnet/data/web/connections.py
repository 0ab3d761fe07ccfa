"""Connections to web servers: read by a clock, kept for the next request, through a proxy where there is one."""

import http.client
import io
import os
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import SplitResult

from nlnet.data.web.addresses import user_header


class Clock:
    """What each reading from a socket may wait."""

    def __init__(self, stall: float, deadline: float) -> None:
        self.stall, self.deadline = stall, deadline

    def left(self) -> float:
        """Seconds until the next byte must have come. Raises TimeoutError where there are none."""
        seconds = min(self.stall, self.deadline - time.monotonic())
        if seconds <= 0:
            raise TimeoutError("timed out: the request took too long")
        return seconds


class _Timed(io.RawIOBase):
    """A socket for reading, by a clock: a server that sends a byte now and then does not keep it for ever."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock, self._clock = sock, clock

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What `http.client` reads from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._clock.left())
        return self._sock.recv_into(buffer)


_idle: dict[tuple[Any, ...], list[http.client.HTTPConnection]] = {}
_lock = threading.Lock()


class Origin:
    """A connection to a server: one that is idle, or a new one."""

    def __init__(self, parts: SplitResult, proxy: SplitResult | None, clock: Clock) -> None:
        self.key = (os.getpid(), parts.scheme, parts.hostname, parts.port, proxy)
        with _lock:  # a process that was forked has connections of its own
            for key in [key for key in _idle if key[0] != self.key[0]]:
                for connection in _idle.pop(key):
                    connection.close()
            waiting = _idle.get(self.key)
            idle = waiting.pop() if waiting else None
        self.used_before = idle is not None
        self.connection = idle or _connection(parts, proxy)
        self.connection.timeout = clock.left()
        if idle:
            idle.sock.settimeout(clock.left())
        self.connection.response_class = lambda sock, **more: http.client.HTTPResponse(_Timed(sock, clock), **more)  # type: ignore[assignment, arg-type]

    def connect(self) -> None:
        if self.connection.sock is None:
            self.connection.connect()

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return str(self.connection.sock.getpeername()[0])

    def keep(self) -> None:
        """For the next request."""
        with _lock:
            _idle.setdefault(self.key, []).append(self.connection)

    def close(self) -> None:
        self.connection.close()


def _connection(parts: SplitResult, proxy: SplitResult | None) -> http.client.HTTPConnection:
    host, port = parts.hostname or "", parts.port
    secure = {"context": ssl.create_default_context()} if parts.scheme == "https" else {}
    kind: Any = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    if not proxy:
        return kind(host, port, **secure)
    connection = kind(proxy.hostname, proxy.port or 80, **secure)
    if secure:
        connection.set_tunnel(host, port or 443, user_header(proxy, "Proxy-Authorization"))
    return connection
