"""Checkpoints whose large tensors lie in shards beside them, as the ranks of a sharded run write them.

Such a checkpoint is a file as any other, in which None stands for each sharded tensor, and `KEY` says where it is:

- `folder`: the folder of the shards, beside the file.
- `files`: the names of the shards in it, with the SHA-256 digests of their bytes.
- `tensors`: [(path in the checkpoint, type, sizes)].
- `chunks`: (N, 6), for each piece the tensor's number, the file's, where in the file it begins and how many bytes it
  has, its first row and how many rows it has along the first dimension.

A piece is a tensor that `torch.save` wrote, and is read as all of PyTorch's files are here: nothing in it is run.
"""

import hashlib
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlnet.checkpoints.guard.archive import check_archive
from nlnet.errors import UserError
from nlnet.reading import open_regular

KEY = "shards"
FOLDER = re.compile(r"[\w.-]+-[0-9a-f]{8}\.shards")
"""What a folder of shards is called."""

_FILE = re.compile(r"[\w-][\w.-]*")
_PIECE = 1 << 22


def is_sharded(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has tensors in shards."""
    return isinstance(content.get(KEY), Mapping)


def assembled(content: dict[str, Any], file: Path, prefix: str = "") -> dict[str, Any]:
    """`content` of the checkpoint `file` with its sharded tensors in their places, whole, and without `KEY`.

    `prefix` is what the messages say before the path. Raises UserError for shards that are not there, damaged, or not
    those that the checkpoint names.
    """
    where, table = f"{prefix}{file}", content[KEY]
    content = {key: value for key, value in content.items() if key != KEY}
    try:
        folder, files, tensors, chunks = _checked(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: does not say where its shards are ({error}); restore the file") from error
    place = file.parent / folder
    shards = [_read(place / name, digest, where) for name, digest in files.items()]
    try:
        for tensor, (path, dtype, sizes) in enumerate(tensors):
            pieces = chunks[chunks[:, 0] == tensor, 1:].tolist()
            _put(content, path, _whole(shards, pieces, getattr(torch, dtype), sizes))
    except Exception as error:  # a file of somebody else's may be wrong in any way
        raise UserError(f"{where}: its shards in {place} are not those of this checkpoint: {error}") from error
    return content


def _checked(table: Mapping[str, Any]) -> tuple[str, dict[str, str], list[Any], Tensor]:
    folder, files, tensors, chunks = (table[name] for name in ("folder", "files", "tensors", "chunks"))
    if not isinstance(folder, str) or not FOLDER.fullmatch(folder):
        raise ValueError(f"folder={str(folder)[:80]!r}")
    if not isinstance(files, dict) or not all(isinstance(name, str) and _FILE.fullmatch(name) for name in files):
        raise ValueError("its files have no plain names")
    if not isinstance(chunks, Tensor) or chunks.dtype != torch.int64 or chunks.ndim != 2 or chunks.shape[1] != 6:
        raise ValueError("its table of pieces is none")
    for path, dtype, sizes in tensors:
        if not isinstance(path, list) or not isinstance(getattr(torch, str(dtype), None), torch.dtype):
            raise ValueError(f"{path} of type {dtype}")
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError(f"{path} of sizes {sizes}")
    return folder, files, tensors, chunks


def _read(path: Path, digest: str, where: str) -> bytes:
    """The bytes of a shard, which are those that were written."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise UserError(
            f"{where}: its shard {path} is not there ({error.strerror}); copy the folder {path.parent.name} beside the"
            " checkpoint, or take another checkpoint of its run"
        ) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(
            f"{where}: its shard {path} is damaged since it was written; copy it again, or take another checkpoint of"
            " its run"
        )
    return data


def _whole(shards: list[bytes], pieces: list[list[int]], dtype: torch.dtype, sizes: list[int]) -> Tensor:
    """A tensor of its pieces [file, at, length, row, rows], which together have each of its rows once."""
    pieces = sorted(pieces, key=lambda piece: piece[3])
    ends = [row + rows for *_, row, rows in pieces]
    rest = math.prod(sizes[1:])
    if [row for *_, row, _ in pieces] != [0, *ends[:-1]] or ends[-1:] != [sizes[0] if sizes else 1]:
        raise ValueError("rows are missing")
    parts = []
    for file, at, length, _, rows in pieces:
        if not 0 <= at <= at + length <= len(shards[file]) or rows * rest * dtype.itemsize > length:
            raise ValueError("a piece is longer than its file")
        parts.append(read_piece(shards[file][at : at + length]))
        if parts[-1].dtype != dtype or list(parts[-1].shape) != [rows, *sizes[1:]]:
            raise ValueError(f"a piece is of {parts[-1].dtype}, {tuple(parts[-1].shape)}")
    return torch.cat(parts)


def read_piece(data: bytes) -> Tensor:
    """A tensor that `torch.save` wrote. Raises ValueError for anything else."""
    check_archive(io.BytesIO(data), len(data))
    value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(value, Tensor):
        raise ValueError(f"a piece is a {type(value).__name__}")
    return value


def _put(content: Any, path: list[Any], value: Tensor) -> None:
    """Put `value` where `path` leads to, in place of the None there."""
    for name in path[:-1]:
        content = content[name]
    if content[path[-1]] is not None:
        raise ValueError(f"{path} is there already")
    content[path[-1]] = value
