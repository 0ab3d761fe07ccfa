"""From the rows of a manifest's JSON to columns, a few thousand at a time, each value of its type."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from nlnet.data.shards.columns.samples import NUMBERS, Samples, columns_of
from nlnet.data.shards.fields import MAX_INT, MAX_TEXT, row, time_table
from nlnet.reading import parse_json

FIELDS = {
    **{"key": str, "shard": int, "offset": int, "length": int, "crc32": int},
    **{"frames": int, "fps": float, "width": int, "height": int, "labels": list},
}
"""What a row holds, in this order."""

_LABEL = {"class": int, "start": float, "end": float}
_BEGIN, _END = b'\n"samples": [\n', b"\n]\n}"
_PIECE = 1 << 20  # bytes of text at a time
_TOGETHER = 1 << 16  # rows at a time
_EMPTY = b'\n"samples": []\n}'

Rows = Iterator[list[Any]]


class OtherLayout(Exception):
    """A text whose samples are not one a line, as they are written; it has to be parsed as a whole."""


def read_lines(text: bytes) -> tuple[Any, Rows]:
    """The content of a manifest without its samples, and these in lists, parsed when they are asked for.

    What it takes for a manifest is one for any reader of JSON, with the same values: a line cannot end within a text,
    the content with no samples is valid, and so is each piece of the list. Raises OtherLayout, also later.
    """
    begin, end = text.rfind(_BEGIN), len(text.rstrip(b"\n")) - len(_END)
    if begin < 0 or not begin + len(_BEGIN) <= end or text[end : end + len(_END)] != _END:
        raise OtherLayout
    try:
        return parse_json(text[:begin] + _EMPTY, ""), _pieces(text, begin + len(_BEGIN), end)
    except ValueError:
        raise OtherLayout from None


def _pieces(text: bytes, begin: int, end: int) -> Rows:
    while begin < end:
        stop = text.find(b",\n", min(begin + _PIECE, end), end)
        stop = end if stop < 0 else stop
        try:
            rows = parse_json(b"[" + text[begin:stop] + b"]", "")
        except ValueError:
            raise OtherLayout from None
        if not rows:
            raise OtherLayout
        yield rows
        begin = stop + len(b",\n")
        if begin == end:
            raise OtherLayout  # a comma after the last one


def in_pieces(rows: list[Any]) -> Rows:
    """The rows of a list, in lists of a size that is worked on at a time."""
    return (rows[k : k + _TOGETHER] for k in range(0, len(rows), _TOGETHER))


class Wide(NamedTuple):
    """Samples as columns, whose values have their types but may be of any size.

    Args:
        numbers: the columns of `NUMBERS`, (N,) of 64 bits.
        keys: the names.
        labels: of each sample, a list of (class, start, end).
        tables: of each sample, its time table or nothing.
    """

    numbers: dict[str, np.ndarray]
    keys: Sequence[str]
    labels: Sequence[list[Any]]
    tables: Sequence[tuple[int, ...]]

    def narrow(self) -> Samples:
        """The samples. Raises ValueError for a number that has no place in its column."""
        return columns_of(self.numbers, self.keys, self.labels, self.tables)


def wide_columns(rows: Sequence[Any], first: int, tables: dict[str, Any]) -> Wide:
    """The columns of rows.

    Args:
        rows: as they were parsed, at least one.
        first: the number of the first one, for messages.
        tables: time tables by key; those of these samples are taken out.

    Raises:
        ValueError: for a value of another type, which is named.
    """
    columns = list(zip(*rows, strict=True)) if _fit(rows) else []
    if not columns or not _right(columns):
        columns = list(zip(*(_sample(values, first + k) for k, values in enumerate(rows)), strict=True))
    keys, *numbers, labels = columns
    wide = (np.float64 if kind is np.float64 else np.int64 for kind in NUMBERS.values())
    arrays = {name: np.array(values, kind) for name, values, kind in zip(NUMBERS, numbers, wide, strict=True)}
    return Wide(arrays, keys, labels, _taken(keys, numbers[4], tables))


def _fit(rows: Sequence[Any]) -> bool:
    return _all(rows, list) and set(map(len, rows)) == {len(FIELDS)}


def _right(columns: list[Any]) -> bool:
    """Whether every value has its type and its bounds; what is wrong is for `_sample` to say."""
    if not all(_right_column(values, kind) for values, kind in zip(columns, FIELDS.values(), strict=True)):
        return False
    labels = list(chain.from_iterable(columns[-1]))
    if not labels:
        return True
    if not _all(labels, list) or set(map(len, labels)) != {len(_LABEL)}:
        return False
    return all(_right_column(v, kind) for v, kind in zip(zip(*labels, strict=True), _LABEL.values(), strict=True))


def _right_column(values: Sequence[Any], kind: type) -> bool:
    if kind is float:
        kinds = set(map(type, values))
        whole = [value for value in values if type(value) is int] if int in kinds else []
        return kinds <= {int, float} and _bounded(whole) and all(map(math.isfinite, values))
    if not _all(values, kind):
        return False
    return _bounded(values) if kind is int else max(map(len, values)) <= MAX_TEXT if kind is str else True


def _bounded(values: Sequence[int]) -> bool:
    return not values or -MAX_INT <= min(values) <= max(values) <= MAX_INT


def _all(values: Iterable[Any], kind: type) -> bool:
    return set(map(type, values)) == {kind}


def _sample(values: Any, number: int) -> list[Any]:
    *plain, labels = row(values, FIELDS, f"sample {number}")
    return [*plain, [row(label, _LABEL, f"a label of sample {number}") for label in labels]]


def _taken(keys: Sequence[str], frames: Sequence[int], tables: dict[str, Any]) -> Sequence[tuple[int, ...]]:
    if not tables:
        return [()] * len(keys)
    return [
        time_table(tables.pop(key), count, f"times of {key!r:.80}") if key in tables else ()
        for key, count in zip(keys, frames, strict=True)
    ]
