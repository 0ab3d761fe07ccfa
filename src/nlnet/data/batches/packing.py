"""A batch on its way from a worker: all its tensors in one block of shared memory, and so one open file a batch.

A tensor that is sent alone holds an open file for as long as it lives, and a batch of detection has hundreds of them.
"""

import resource
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlnet.errors import UserError

_ALIGNED = 64  # bytes: a tensor begins at a multiple, as memory from torch's own allocator does
_SMALL = 1 << 16  # bytes
_FILES, _FILES_OF_WORKER = 64, 12
"""Open files of a process by itself (libraries, logs, a checkpoint, connections), and more for each of its workers:
pipes and batches of the two loaders, as measured."""


class Slot(NamedTuple):
    """Where a tensor lies in the block."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class Packed(NamedTuple):
    """A batch whose tensors are replaced by their slots in `block`, (n,) uint8."""

    block: Tensor
    batch: Any


def pack(batch: Any) -> Packed:
    """The batch in a block of shared memory. Raises RuntimeError where there is not enough of it."""
    tensors: list[Tensor] = []
    ends = [0]

    def slot(tensor: Tensor) -> Slot:
        begin = -(-ends[-1] // _ALIGNED) * _ALIGNED
        ends.append(begin + tensor.nbytes)
        tensors.append(tensor)
        return Slot(tensor.dtype, tuple(tensor.shape), begin)

    layout = _mapped(batch, Tensor, slot)
    memory = torch.UntypedStorage._new_shared(max(1, ends[-1]))
    block = torch.empty(0, dtype=torch.uint8).set_(memory)  # type: ignore[call-overload]
    for tensor, spot in zip(tensors, _found(layout), strict=True):
        _view(block, spot).copy_(tensor)
    return Packed(block, layout)


def unpack(packed: Packed) -> Any:
    """The batch. Its large tensors are parts of the block, its small ones copies, which may be kept without it."""

    def take(slot: Slot) -> Tensor:
        part = _view(packed.block, slot)
        return part if part.nbytes > _SMALL else part.clone()

    return _mapped(packed.batch, Slot, take)


def check_open_files(num_workers: int, parallel_reads: int) -> None:
    """Make room for the open files of a loader with workers. Raises UserError where the system's limit forbids it."""
    needed = _FILES + _FILES_OF_WORKER * num_workers + parallel_reads
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard == resource.RLIM_INFINITY or hard >= needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    fits = max(0, (hard - _FILES - parallel_reads) // _FILES_OF_WORKER)
    raise UserError(
        f"data.num_workers={num_workers} needs {needed} open files and {hard} are allowed; raise the limit"
        f" (ulimit -n {needed}), or set data.num_workers={fits}"
    )


def _view(block: Tensor, slot: Slot) -> Tensor:
    count = slot.dtype.itemsize
    for side in slot.shape:
        count *= side
    return block[slot.offset : slot.offset + count].view(slot.dtype).view(slot.shape)


def _found(layout: Any) -> list[Slot]:
    """The slots in the order in which they were made."""
    slots: list[Slot] = []
    _mapped(layout, Slot, slots.append)
    return slots


def _mapped(value: Any, kind: type, function: Any) -> Any:
    """The same dictionaries, lists and tuples with `function` of everything in them that is a `kind`."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(part, kind, function) for key, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, kind, function) for part in value]
    if type(value) is tuple:
        return tuple(_mapped(part, kind, function) for part in value)
    return value
