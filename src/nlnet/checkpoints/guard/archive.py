"""PyTorch's files looked through before they are loaded: what they claim to hold against what is there."""

import math
import mmap
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from nlnet import limits
from nlnet.checkpoints.guard.pickles import check_pickle
from nlnet.reading import open_regular

_ZIP = b"PK\x03\x04"
# The pickled number that PyTorch's files before 1.6 begin with
_LEGACY = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\.", re.DOTALL)
_LEGACY_PICKLES = 5  # the number, the protocol, the system, the content, the names of the storages
_NO_BYTES = 1 << 20  # the most that the sides of a tensor may multiply to where some are 0


def check_file(path: Path) -> None:
    """Raises ValueError for what PyTorch has not written, TooLarge for what takes far more than its file, OSError."""
    with open_regular(path) as file:
        begin = file.read(64)
        if begin.startswith(_ZIP):
            check_archive(file, path.stat().st_size)
        elif _LEGACY.match(begin):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                at = 0
                for _ in range(_LEGACY_PICKLES):
                    at = check_pickle(data, at)
        else:
            reason = "ends too early or is empty" if len(begin) < 16 else "does not begin like a file of PyTorch"
            raise ValueError(f"it {reason}")


def check_archive(file: IO[bytes], size: int) -> None:
    """Raises ValueError for a zip archive of `size` bytes that PyTorch has not written, TooLarge as `check_file`."""
    try:
        _check_zip(file, size)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"no whole zip archive ({error})") from None


def _check_zip(file: IO[bytes], size: int) -> None:
    """Entries are stored as they are, so that together they are no longer than the file."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        limits.ARCHIVE.check(len(entries))
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("two entries of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size for entry in entries):
            raise ValueError("a compressed entry, and PyTorch compresses none: it could unpack to any size")
        if (total := sum(entry.file_size for entry in entries)) > size:
            raise ValueError(f"its entries claim {total:,} bytes, and the file has {size:,}")
        for entry in entries:
            if entry.filename.rpartition("/")[2] == "data.pkl":
                check_pickle(archive.read(entry))


def check_content(content: Mapping[Any, Any]) -> None:
    """Raises ValueError for tensors that claim more than is there, TooLarge for deep nesting and too many classes."""
    if isinstance(classes := content.get("classes"), list):
        limits.CLASSES.check(len(classes))
    tensors = [value for value in _values(content) if isinstance(value, Tensor)]
    limits.UNPACKED.check(sum(map(_beyond, tensors)))


def _beyond(value: Tensor) -> int:
    """The bytes that a tensor has beyond its storage: repeated ones, which come into being where it is copied."""
    if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
        raise ValueError(f"a tensor without plain content ({value.layout}, on {value.device})")
    claimed = math.prod(max(1, side) for side in value.shape) * value.element_size()
    if not value.numel() and claimed > _NO_BYTES:
        raise ValueError(f"an empty tensor of {tuple(value.shape)}")
    return max(0, claimed - value.untyped_storage().nbytes())


def _values(content: Any) -> Iterator[Any]:
    """All values in dictionaries, lists and tuples, each one once however often it is referred to."""
    seen: set[int] = set()
    level, depth = [content], 0
    while level:
        limits.NESTING.check(depth)
        below: list[Any] = []
        for value in level:
            if id(value) in seen:
                continue
            yield value
            if isinstance(value, Mapping | list | tuple | set | frozenset):
                seen.add(id(value))
                below += [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        level, depth = below, depth + 1
