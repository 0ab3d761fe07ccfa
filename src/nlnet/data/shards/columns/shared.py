"""Arrays in memory that processes share: sent as a file descriptor, and there once for all of them."""

import mmap
import os
import weakref
from collections.abc import Callable, Mapping
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np

Layout = list[tuple[str, str, int, int]]  # name, type, length, where it begins
_ALIGNED = 64


def spawning() -> bool:
    """Whether this is pickled for a process that is about to start, which open files can be handed to."""
    return get_spawning_popen() is not None


class SharedArrays:
    """Arrays of one dimension, by name, which no process can change.

    They lie in a file in memory that has no name (memfd), so not in /dev/shm, which containers keep small.
    """

    def __init__(self, descriptor: int, layout: Layout) -> None:
        self._descriptor, self._layout = descriptor, layout
        weakref.finalize(self, os.close, descriptor)
        memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        self.arrays = {
            name: np.frombuffer(memory, dtype, length, begin) if length else np.empty(0, dtype)
            for name, dtype, length, begin in layout
        }

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray]) -> "SharedArrays | None":
        """A copy of `arrays` in shared memory; None where the system has none."""
        if not hasattr(os, "memfd_create"):
            return None
        layout: Layout = []
        end = 0
        for name, array in arrays.items():
            layout.append((name, array.dtype.str, len(array), end))
            end += -(-array.nbytes // _ALIGNED) * _ALIGNED
        try:
            shared = os.memfd_create("manifest")
            with os.fdopen(shared, "wb", closefd=False) as file:
                file.truncate(max(end, 1))
                for (_, _, _, begin), array in zip(layout, arrays.values(), strict=True):
                    file.seek(begin)
                    file.write(np.ascontiguousarray(array).data)
        except OSError:
            return None
        return SharedArrays(shared, layout)

    def __reduce__(self) -> tuple[Callable[..., "SharedArrays"], tuple[Any, ...]]:
        return _received, (reduction.DupFd(self._descriptor), self._layout)


def _received(descriptor: Any, layout: Layout) -> SharedArrays:
    return SharedArrays(descriptor.detach(), layout)
