"""Values that somebody might put into a file, and a watch over what a program does with them."""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECRET = "the-secret-of-this-machine"


def hostile_values(folder: Path, port: int) -> list[Any]:
    """Paths, targets, interpolations, URLs, sizes, types and control characters; commands make `folder`/PWNED."""
    touch = f"touch {folder}/PWNED"
    git = {"_target_": "nlnet.runs.record._git", "_args_": [str(folder), "-c", f"alias.x=!{touch}", "x"]}
    nested: Any = {"_target_": "os.system", "_args_": [touch]}
    for _ in range(40):
        nested = [nested]
    return [
        "/etc/passwd",
        f"{folder}/outside/file.txt",
        "../../outside/file.txt",
        f"local://{folder}/outside",
        "~/outside",
        {"_target_": "os.system", "_args_": [touch]},
        git,
        {"_target_": "torchvision.datasets.utils.torch.hub.load", "_args_": [str(folder), "x"], "source": "local"},
        {"_target_": "builtins.exec", "_args_": [f"import os; os.system({touch!r})"]},
        {"x": {"_target_": "subprocess.Popen", "args": touch, "shell": True}},
        f"pipe:{touch}; cat x",
        "${oc.env:NLNET_TEST_SECRET}",
        f"http://127.0.0.1:{port}/${{oc.env:NLNET_TEST_SECRET}}",
        f"http://127.0.0.1:{port}/shards",
        f"s3://127.0.0.1:{port}/shards",
        "${hydra:runtime.cwd}",
        "???",
        10**30,
        10**9,
        -1,
        0.5,
        float("nan"),
        float("inf"),
        None,
        True,
        "",
        "x" * 100_000,
        [],
        {},
        nested,
        [10**9] * 3,
        "\x1b[2J\nerror: forged \u202e",
        b"bytes",
    ]


def paths_of(node: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in dictionaries and lists within one another, those that hold others included."""
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, inner in entries:
        yield (*before, name)
        yield from paths_of(inner, (*before, name))


def with_value(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of `node` with another value at `path`; what is not on the way is shared."""
    if not path:
        return value
    copy: Any = dict(node) if isinstance(node, Mapping) else list(node)
    copy[path[0]] = with_value(node[path[0]], path[1:], value)
    return copy


class Listener:
    """A server that counts who connects, and answers nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


_SEEN: list[tuple[str, str]] | None = None
_WATCHED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "shutil.rmtree", "os.remove", "os.rename")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _SEEN is None:
        return
    if event in _WATCHED:
        _SEEN.append((event, str(arguments[:2])))
    elif event == "open" and isinstance(arguments[0], str | bytes) and _writes(arguments[1], arguments[2]):
        _SEEN.append(("write", os.path.abspath(os.fsdecode(arguments[0]))))


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """(event, what) of every command, deletion and opening for writing in this process while it is open."""
    global _SEEN
    if not getattr(sys, "_nlnet_hook", False):
        sys.addaudithook(_hook)  # for the life of the process
        sys._nlnet_hook = True  # type: ignore[attr-defined]
    _SEEN = seen = []
    try:
        yield seen
    finally:
        _SEEN = None
