"""Files that appear whole or not at all: written beside their place, brought to the disk, and only then renamed."""

import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nlnet.errors import UserError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""The names of `temporary_name`: what a process that was killed while it wrote leaves behind."""

DISK = {errno.ENOSPC: "make room there", errno.EDQUOT: "make room there", errno.EROFS: "make it writable"}
"""What a disk, not the program, makes of any write, and what to say about it."""


class CannotWrite(UserError):
    """A file could not be written; the one of the same name before it is as it was."""

    def __init__(self, path: Path, error: OSError) -> None:
        advice = DISK.get(error.errno or 0, "see that its folder can be written to")
        before = "; the file that was there is as it was" if path.exists() else ""
        super().__init__(
            f"{path}: cannot be written: {error.strerror or error}; {advice}, or choose another place{before}"
        )


@contextmanager
def replacing(path: str | Path, *, follow_links: bool = True) -> Iterator[Path]:
    """A path to write a file to that takes the place of `path` when the block ends.

    It lies in the same folder, so that this is one rename on one file system. Before it, the bytes are on the disk;
    after it, the new name is. Where the block or the disk fails, nothing is left of it and `path` is as it was.
    A device or a pipe is written to directly. `follow_links=False` replaces a symbolic link, not what it points to.

    Raises CannotWrite, which names `path`, for an OSError of the block or of the renaming.
    """
    path = Path(path)
    place = Path(os.path.realpath(path)) if follow_links else path
    direct = place.exists() and not place.is_file()
    temporary = place if direct else temporary_name(place)
    try:
        yield temporary
        if not direct:
            publish(temporary, place)
    except OSError as error:
        raise CannotWrite(path, error) from error
    finally:
        if not direct:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A new hidden name beside `path`, of its own for every call: several processes may write the same file."""
    stem = path.name.encode()[:120].decode(errors="ignore")  # file systems take names of 255 bytes
    return path.with_name(f".{stem}.{secrets.token_hex(4)}.tmp")


def publish(temporary: Path, path: Path) -> None:
    """Bring `temporary` to the disk and rename it to `path`, in the same folder. Raises OSError."""
    sync(temporary)
    os.replace(temporary, path)
    with suppress(OSError):  # not every file system has folders that can be synchronized; the file is whole anyway
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until what was written to a file or a folder is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> None:
    """The file `path` with these bytes, whole or as it was. Raises CannotWrite."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, content: Any, *, indent: int | None = 2) -> None:
    """The file `path` with `content` as JSON, compact without an indent. JSON has no NaN and no infinity: null."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(finite(content), indent=indent, separators=separators, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def finite(value: Any) -> Any:
    """`value` with None for every number within it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in `folder` and below it."""
    for path in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)
