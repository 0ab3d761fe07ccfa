"""Sharded checkpoints as the ranks write them; `nlnet.checkpoints.shards` says what they are and reads them."""

import errno
import hashlib
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.tensor import DTensor

from nlnet.checkpoints.shards import FOLDER, KEY, read_piece
from nlnet.distributed import gather, on_first, rank
from nlnet.saving import CannotWrite, sync


def write_shards(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write the sharded tensors of `checkpoint` beside `path`; returns what is left for the file there.

    Called on every rank. Each writes its part of every tensor, brings it to the disk, reads it back and compares.
    Nothing refers to the folder before the returned checkpoint is saved. Raises CannotWrite on every rank.
    """
    found: list[tuple[list[Any], DTensor]] = []
    left = _without_sharded(checkpoint, [], found)
    folder = path.with_name(on_first(lambda: f"{path.name.removesuffix('.ckpt')}-{secrets.token_hex(4)}.shards"))
    try:
        metadata = dcp.save(
            {str(number): tensor for number, (_, tensor) in enumerate(found)},
            storage_writer=dcp.FileSystemWriter(folder, sync_files=True),
            planner=dcp.DefaultSavePlanner(flatten_state_dict=False),
        )
    except CheckpointException as error:  # the same on every rank
        first = next(cause for cause, _ in error.failures.values())
        raise _cannot_write(path, first) from error
    chunks, names = _chunks(metadata)
    mine, failure = {}, None
    try:
        mine = _verified(folder, names, chunks, [tensor for _, tensor in found])
        sync(folder)
    except OSError as error:
        failure = error.errno or errno.EIO, str(error.strerror or error)
    everyone = gather((mine, failure))
    if failed := next((failure for _, failure in everyone if failure), None):
        raise _cannot_write(path, OSError(*failed))
    digests = {name: digest for mine, _ in everyone for name, digest in mine.items()}
    tensors = [(keys, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for keys, tensor in found]
    files = {name: digests[name] for name in names}
    return left | {KEY: {"folder": folder.name, "files": files, "tensors": tensors, "chunks": chunks}}


def remove_unused(folder: Path) -> None:
    """Remove the shards in `folder` that no checkpoint in it names, such as those of one that was replaced."""
    shards = [path for path in folder.glob("*.shards") if FOLDER.fullmatch(path.name) and not path.is_symlink()]
    named = {name for path in folder.glob("*.ckpt") for name in _named(path)} if shards else set()
    for path in shards:
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def _named(path: Path) -> Iterator[str]:
    """The folders of shards that the settings of a checkpoint's file name, read without its tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            for text in (archive.read(name) for name in entries):
                yield from (found.decode() for found in re.findall(FOLDER.pattern.encode(), text))
    except (OSError, zipfile.BadZipFile):  # damaged: what it named stays unnamed
        return


def _without_sharded(value: Any, keys: list[Any], found: list[tuple[list[Any], DTensor]]) -> Any:
    """`value` with None for each sharded tensor in its dictionaries and lists; those go to `found` with their paths."""
    if isinstance(value, DTensor):
        found.append((keys, value))
        return None
    if isinstance(value, dict):
        return {name: _without_sharded(inner, [*keys, name], found) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_sharded(inner, [*keys, index], found) for index, inner in enumerate(value)]
    return value


def _chunks(metadata: Metadata) -> tuple[Tensor, list[str]]:
    """The table of pieces, and the names of the files."""
    names = sorted({info.relative_path for info in metadata.storage_data.values()})
    rows = []
    for index, info in metadata.storage_data.items():
        pieces: Any = metadata.state_dict_metadata[index.fqn]
        piece = next(piece for piece in pieces.chunks if piece.offsets == index.offset)
        place = [names.index(info.relative_path), info.offset, info.length]
        rows.append([int(index.fqn), *place, piece.offsets[0], piece.sizes[0]])
    return torch.tensor(sorted(rows), dtype=torch.int64).view(-1, 6), names


def _verified(folder: Path, names: list[str], chunks: Tensor, tensors: list[DTensor]) -> dict[str, str]:
    """The digests of this rank's files, read back. Raises OSError where a piece is not what it was written from."""
    digests = {}
    for number, name in enumerate(names):
        if not name.startswith(f"__{rank()}_"):
            continue
        data = (folder / name).read_bytes()
        for tensor, _, at, length, _, _ in chunks[chunks[:, 1] == number].tolist():
            if not torch.equal(read_piece(data[at : at + length]), tensors[tensor].to_local().cpu()):
                raise OSError(errno.EIO, "a shard was read back otherwise than written")
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests


def _cannot_write(path: Path, error: BaseException) -> CannotWrite:
    return CannotWrite(path, error if isinstance(error, OSError) else OSError(errno.EIO, str(error)))
