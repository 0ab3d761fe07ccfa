"""Text, JSON and YAML of files as plain values: bounded in size, depth and memory before anything is made of them."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nlnet import limits
from nlnet.errors import UserError
from nlnet.limits import Limit

_CHUNK = 1 << 20
_MARKS = b'[]{},:"'
_OTHERS = bytes(set(range(256)) - set(_MARKS))
# What CPython takes for a list or dictionary with its first entries, and for any other value with its place.
_CONTAINER, _VALUE = 200, 40
_DIGITS = 400  # of a number


class NotReadable(UserError, ValueError):
    """A file whose content is not what its kind of file holds."""


def read_bytes(path: Path, limit: Limit) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises OSError, and TooLarge before it is read."""
    with open_regular(path) as file:
        data = file.read(limit.most + 1)
    if len(data) > limit.most:
        raise limit.excess(path, path.stat().st_size)
    return data


def open_regular(path: Path) -> Any:
    """A regular file for reading bytes; what is none is not opened, since a pipe may never answer. Raises OSError."""
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise OSError(f"{path} is no regular file")
    return open(path, "rb")


def read_text(path: Path, limit: Limit = limits.TEXT) -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises OSError, and UserError."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotReadable(f"{path}: cannot be read as text in UTF-8: {error.reason} at byte {error.start}") from None


def read_json(path: Path, limit: Limit = limits.TEXT, memory: Limit = limits.UNPACKED) -> Any:
    """The content of a JSON file. Raises OSError, and UserError."""
    return parse_json(read_bytes(path, limit), path, memory)


def parse_json(data: bytes | str, where: object, memory: Limit = limits.UNPACKED) -> Any:
    """The values of a JSON text; `where` it is from is said in messages.

    Raises UserError, which is also a ValueError, for other text, and TooLarge for what is nested too deeply or would
    take more than `memory` bytes, which a few bytes of text can.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    depth, containers, others = _shape(raw)
    limits.NESTING.check(depth, where)
    letters = len(raw) * (2 if raw.isascii() else 8)  # the whole and its parts; up to four bytes a letter
    memory.check(letters + _CONTAINER * containers + _VALUE * others, where)
    try:
        return json.loads(data)
    except RecursionError:
        raise limits.NESTING.excess(where) from None
    except ValueError as error:
        raise NotReadable(f"{_at(where)}cannot be read as JSON: {error}") from None


def _at(where: object) -> str:
    return f"{where}: " if where else ""


def _shape(raw: bytes) -> tuple[int, int, int]:
    """(depth, lists and dictionaries, commas and colons) of a JSON text, without what is inside its strings."""
    depth = deepest = containers = others = 0
    inside = 0  # a string
    step = np.zeros(256, np.int32)
    step[list(b"[{")], step[list(b"]}")] = 1, -1
    for piece in _pieces(raw):
        marks = np.frombuffer(piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS), np.uint8)
        quotes = np.cumsum(marks == ord('"'), dtype=np.int32) + inside
        steps = np.where(quotes % 2 == 0, step[marks], 0)
        containers += int((steps == 1).sum())
        others += int(((quotes % 2 == 0) & ((marks == ord(",")) | (marks == ord(":")))).sum())
        if len(marks):
            depths = np.cumsum(steps) + depth
            deepest, depth, inside = max(deepest, int(depths.max())), int(depths[-1]), int(quotes[-1]) % 2
    return deepest, containers, others


def _pieces(raw: bytes) -> Iterator[bytes]:
    """Parts of a text that no escape is cut by."""
    begin = 0
    while begin < len(raw):
        end = min(begin + _CHUNK, len(raw))
        while raw[end - 1] == ord("\\") and end < len(raw) and end < begin + 2 * _CHUNK:
            end += 1
        yield raw[begin:end]
        begin = end


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file. Raises OSError, and UserError as `parse_yaml` does."""
    return parse_yaml(read_text(path, limits.SETTINGS), path)


def parse_yaml(text: str, where: object) -> Any:
    """The values of a YAML text: dictionaries, lists, texts, numbers, true, false and null.

    Raises UserError, which is also a ValueError, for other text, for tags, and for aliases of more than a plain value,
    which may stand for any amount; TooLarge for what is too long or nested too deeply. `where` is said first.
    """
    limits.SETTINGS.check(len(text), where)
    try:
        _check_events(text, where)
        # A safe loader, of plain values alone
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise NotReadable(f"{_at(where)}cannot be read as YAML of plain values: {_reason(error)}") from None


def _check_events(text: str, where: object) -> None:
    depth, plain = 0, set[str]()
    for event in yaml.parse(text, _Loader):
        line = f"{where}{', ' if where else ''}line {event.start_mark.line + 1}"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            limits.NESTING.check(depth, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent) and event.anchor not in plain:
            raise NotReadable(f"{line}: the alias *{event.anchor} stands for more than a plain value; write it out")
        elif isinstance(event, yaml.ScalarEvent):
            plain |= {event.anchor} if event.anchor else set()
            if not event.style and len(event.value) > _DIGITS and event.value[:1] in "+-.0123456789":
                raise NotReadable(f"{line}: a number of {len(event.value):,} characters")
        if (tag := getattr(event, "tag", None)) is not None:
            raise NotReadable(f"{line}: the tag {tag:.80}; a configuration holds plain values only")


def _reason(error: Exception) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    return f"{problem}, line {mark.line + 1}" if problem and mark else str(error)


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLOAT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")


class _Loader(_SafeLoader):  # type: ignore[misc]
    """The types of OmegaConf's files: `1e-3` is a number, a date is a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
