"""Reading Caffe2 `.pkl` files, which are Python 2 pickles of NumPy arrays, without running anything that they ask for.

A pickle is a program: it names callables and calls them. Here the few names that an array needs stand for recorders in
this file; any other name, and any persistent id, is refused. Neither NumPy's own reconstructors nor anything else that
can be imported is ever called.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nlnet import limits
from nlnet.checkpoints.guard.pickles import check_pickle
from nlnet.errors import UserError
from nlnet.limits import TooLarge
from nlnet.reading import read_bytes

_KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
_ENCODINGS = {"latin1", "latin-1", "iso-8859-1"}
# what a damaged or a foreign file makes the unpickler raise
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


def read_blobs(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a Caffe2 file by blob name: of its "blobs" entry, or of the file itself where it has none.

    Raises UserError if the file is not a pickle of a dictionary, or asks for anything but arrays, numbers and texts.
    """
    try:
        data = read_bytes(path, limits.WEIGHTS)
        check_pickle(data)
        content = _Reader(io.BytesIO(data)).load()
        blobs = content.get("blobs", content) if isinstance(content, Mapping) else content
        if not isinstance(blobs, Mapping):
            raise UserError(f"{path}: expected a dictionary of blobs, got {type(blobs).__name__}")
        return {str(name): blob.value() for name, blob in blobs.items() if isinstance(blob, _Array)}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except TooLarge as error:
        raise UserError(f"{path}: {error}") from None
    except _UNREADABLE as error:
        raise UserError(f"{path}: not a Caffe2 file that can be read safely: {error}") from error


class _Reader(pickle.Unpickler):
    """An unpickler that knows recorders only. Texts of Python 2 are read as Latin-1, one character a byte."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, fix_imports=False, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _RECORDERS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which holds no array; nothing of it was run")
        return _Callable(_RECORDERS[module, name])

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


class _Callable:
    """A recorder as the pickle gets it: to be called, not to be changed."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a callable")


class _Dtype:
    """What a pickle says of an element type: `f4` and the like, then its byte order."""

    def __init__(self, kind: str, align: int = 0, copy: int = 1) -> None:
        if _text(kind) not in _KINDS:
            raise pickle.UnpicklingError(f"elements of type {kind!r} are not numbers")
        self.kind, self.order = _text(kind), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = _text(state[1])
        self.order = order if order in ("<", ">") else "<"

    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.kind)


class _Array:
    """What a pickle says of an array: its shape, element type and bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, _ = state
        if not isinstance(dtype, _Dtype) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array of something other than numbers")
        self.state = state

    def value(self) -> np.ndarray:
        if self.state is None:
            raise ValueError("an array without content")
        _, shape, dtype, fortran, data = self.state
        flat = np.frombuffer(_bytes(data), dtype.dtype())
        if flat.size != int(np.prod(shape, dtype=np.int64)):
            raise ValueError(f"an array of shape {tuple(shape)} with {flat.size} elements")
        return flat.reshape(shape, order="F" if fortran else "C")


def _refuse(*_: Any) -> None:
    """Stands for the class numpy.ndarray, which is an argument only."""
    raise pickle.UnpicklingError("it calls numpy.ndarray")


def _scalar(dtype: _Dtype, data: str | bytes = b"") -> float:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("a scalar of something other than a number")
    return np.frombuffer(_bytes(data), dtype.dtype())[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in _ENCODINGS:
        raise pickle.UnpicklingError(f"it encodes a text as {encoding!r}")
    return text.encode("latin1")


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _bytes(data: str | bytes) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


_RECORDERS: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _refuse,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
} | {
    (f"{core}.multiarray", name): recorder
    for core in ("numpy.core", "numpy._core")
    for name, recorder in (("_reconstruct", _Array), ("scalar", _scalar))
}
