"""Pickles as Python 2 wrote them: texts and arrays as byte strings, NumPy's names of that time."""

import struct
from typing import Any

import numpy as np

_TYPES = {np.dtype("float32"): b"f4", np.dtype("float64"): b"f8", np.dtype("int64"): b"i8"}


def dumps(value: Any, protocol: int = 2) -> bytes:
    """`cPickle.dumps(value, protocol)` of Python 2 for dictionaries of texts, numbers and arrays; protocol 0 or 2."""
    return (b"\x80\x02" if protocol == 2 else b"") + _emit(value, protocol) + b"."


def _emit(value: Any, protocol: int) -> bytes:
    match value:
        case np.ndarray():
            return _array(np.ascontiguousarray(value), protocol)
        case dict():
            items = b"".join(_emit(k, protocol) + _emit(v, protocol) + b"s" for k, v in value.items())
            return (b"(d" if protocol == 0 else b"}") + items
        case str():
            return _string(value.encode("latin1"), protocol)
        case float():
            return b"F" + repr(value).encode() + b"\n"
        case int():
            return b"I" + str(value).encode() + b"\n"
    raise TypeError(type(value))


def _string(data: bytes, protocol: int) -> bytes:
    if protocol == 0:
        return b"S" + repr(data)[1:].encode("ascii") + b"\n"
    return b"T" + struct.pack("<i", len(data)) + data


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _array(array: np.ndarray, protocol: int) -> bytes:
    kind = _string(_TYPES[array.dtype], protocol)
    empty = _tuple(b"cnumpy\nndarray\n", _tuple(b"I0\n"), _string(b"b", protocol))
    dtype_state = _tuple(b"I3\n", _string(b"<", protocol), b"N", b"N", b"N", b"I-1\n", b"I-1\n", b"I0\n")
    dtype = b"cnumpy\ndtype\n" + _tuple(kind, b"I0\n", b"I1\n") + b"R" + dtype_state + b"b"
    shape = _tuple(*(f"I{n}\n".encode() for n in array.shape))
    state = _tuple(b"I1\n", shape, dtype, b"I00\n", _string(array.tobytes(), protocol))
    return b"cnumpy.core.multiarray\n_reconstruct\n" + empty + b"R" + state + b"b"
