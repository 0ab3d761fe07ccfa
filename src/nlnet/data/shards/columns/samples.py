"""Millions of samples in some ten arrays: about 100 bytes each, and none of them an object until it is asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Any, overload

import numpy as np

from nlnet.data.annotations.records import Labels
from nlnet.data.shards.columns.sample import Sample
from nlnet.data.shards.columns.shared import SharedArrays, spawning

Columns = dict[str, np.ndarray]

NUMBERS: dict[str, type[np.number]] = {
    **{"shard": np.int32, "offset": np.int64, "length": np.int64, "crc32": np.uint32},
    **{"frames": np.int32, "fps": np.float64, "width": np.int32, "height": np.int32},
}
"""The columns with one number a sample."""

# Those with any number a sample, one after the other; sample i has those from starts[i] to starts[i + 1].
_PARTS: dict[str, dict[str, type[np.number]]] = {
    "keys": {"text": np.uint8},
    "labels": {"class": np.int32, "start": np.float64, "end": np.float64},
    "tables": {"table": np.int64},
}
_TOGETHER = 4096  # samples that become objects at a time


class Samples(Sequence[Sample]):
    """The samples of a manifest: a sequence, whose items are made when they are asked for.

    `number` gives the columns with one number a sample, `keys` the names. A loader process gets the columns in shared
    memory where the system has it, and a copy elsewhere.

    Args:
        columns: one array for each name of `NUMBERS`, (N,); `keys`, `labels` and `tables`, (N + 1,), where the parts of
            each sample begin; and the parts: `text`, the keys in UTF-8, `class`, `start` and `end` of the labels, and
            `table`, the time tables.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._shared: SharedArrays | None = None

    @staticmethod
    def of(samples: Iterable[Sample]) -> "Samples":
        """The columns of samples. Raises ValueError for a number that has no place in its column."""
        if isinstance(samples, Samples):
            return samples
        rows = list(samples)
        numbers = {name: [getattr(row, name) for row in rows] for name in NUMBERS}
        return columns_of(numbers, [row.key for row in rows], [row.labels for row in rows], [row.table for row in rows])

    @staticmethod
    def joined(parts: Sequence["Samples"]) -> "Samples":
        """One after the other."""
        every = [part._columns for part in parts]
        columns = {name: np.concatenate([c[name] for c in every]) for name in NUMBERS} if every else {}
        if not every:
            return Samples.of(())
        for starts, values in _PARTS.items():
            columns[starts] = _starts(np.concatenate([np.diff(c[starts]) for c in every]))
            columns |= {name: np.concatenate([c[name] for c in every]) for name in values}
        return Samples(columns)

    def number(self, name: str) -> np.ndarray:
        """(N,) one of `NUMBERS` of every sample."""
        return self._columns[name]

    @property
    def keys(self) -> "Keys":
        """The names."""
        return Keys(self)

    @property
    def labels(self) -> Iterator[Labels]:
        """The labels of every sample."""
        return chain.from_iterable(self._labels(*places) for places in self._places())

    @property
    def tables(self) -> Iterator[tuple[int, ...]]:
        """The time table of every sample."""
        return chain.from_iterable(self._tables(*places) for places in self._places())

    def digest(self) -> str:
        """A hash of all of it: the same samples in the same order have the same."""
        whole = blake2b(digest_size=16)
        for name, array in self._columns.items():
            whole.update(f"{name} {array.dtype.str} {len(array)} ".encode())
            whole.update(np.ascontiguousarray(array).data)
        return whole.hexdigest()

    def take(self, indices: np.ndarray) -> "Samples":
        """The samples of these indices, or where a mask (N,) is true, in that order."""
        rows = np.arange(len(self))[indices]
        columns = {name: self._columns[name][rows] for name in NUMBERS}
        for starts, values in _PARTS.items():
            begin = self._columns[starts][:-1][rows].astype(np.int64)
            counts = np.diff(self._columns[starts])[rows].astype(np.int64)
            columns[starts] = _starts(counts)
            inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
            columns |= {name: self._columns[name][np.repeat(begin, counts) + inside] for name in values}
        return Samples(columns)

    def in_shards_from(self, first: int) -> "Samples":
        """The same samples with the number of every shard higher by `first`."""
        return Samples(self._columns | {"shard": self._columns["shard"] + np.int32(first)})

    def __len__(self) -> int:
        return len(self._columns["shard"])

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._one(range(len(self))[index])

    def __iter__(self) -> Iterator[Sample]:
        return chain.from_iterable(self._made(*places) for places in self._places())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Samples):
            return NotImplemented
        ours, theirs = self._columns, other._columns
        return all(np.array_equal(ours[name], theirs[name]) for name in ours)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Samples({len(self):,})"

    def __reduce__(self) -> tuple[Callable[..., "Samples"], tuple[Any, ...]]:
        if not spawning():
            return Samples, (self._columns,)
        if self._shared is None and (shared := SharedArrays.of(self._columns)):
            self._shared, self._columns = shared, shared.arrays  # which leaves one copy for all processes
        return (_from_shared, (self._shared,)) if self._shared else (Samples, (self._columns,))

    def key(self, k: int) -> str:
        """The name of sample k."""
        begin, end = self._columns["keys"].item(k), self._columns["keys"].item(k + 1)
        return self._columns["text"][begin:end].tobytes().decode("utf-8", "surrogatepass")

    def key_bytes(self) -> Iterator[bytes]:
        """Every name in UTF-8."""
        return chain.from_iterable(self._key_bytes(*places) for places in self._places())

    def _places(self) -> Iterator[tuple[int, int]]:
        """All of them, so many at a time."""
        return ((k, min(k + _TOGETHER, len(self))) for k in range(0, len(self), _TOGETHER))

    def _one(self, k: int) -> Sample:
        columns = self._columns
        labels: Labels = ()
        table: tuple[int, ...] = ()
        begin, end = columns["labels"].item(k), columns["labels"].item(k + 1)
        if begin < end:
            labels = tuple(zip(*(columns[name][begin:end].tolist() for name in _PARTS["labels"]), strict=True))
        begin, end = columns["tables"].item(k), columns["tables"].item(k + 1)
        if begin < end:
            table = tuple(columns["table"][begin:end].tolist())
        values: list[Any] = [self.key(k), *(columns[name].item(k) for name in NUMBERS), labels, table]
        return Sample(*values)

    def _made(self, begin: int, end: int) -> list[Sample]:
        numbers = [self._columns[name][begin:end].tolist() for name in NUMBERS]
        keys = [text.decode("utf-8", "surrogatepass") for text in self._key_bytes(begin, end)]
        labels, tables = self._labels(begin, end), self._tables(begin, end)
        return [Sample(*values) for values in zip(keys, *numbers, labels, tables, strict=True)]

    def _key_bytes(self, begin: int, end: int) -> list[bytes]:
        starts = self._columns["keys"][begin : end + 1].tolist()
        first, text = starts[0], self._columns["text"][starts[0] : starts[-1]].tobytes()
        return [text[a - first : b - first] for a, b in pairwise(starts)]

    def _labels(self, begin: int, end: int) -> list[Labels]:
        starts = self._columns["labels"][begin : end + 1].tolist()
        first, parts = starts[0], slice(starts[0], starts[-1])
        rows = tuple(zip(*(self._columns[name][parts].tolist() for name in _PARTS["labels"]), strict=True))
        return [rows[a - first : b - first] for a, b in pairwise(starts)]

    def _tables(self, begin: int, end: int) -> list[tuple[int, ...]]:
        starts = self._columns["tables"][begin : end + 1].tolist()
        steps = tuple(self._columns["table"][starts[0] : starts[-1]].tolist())
        return [steps[a - starts[0] : b - starts[0]] for a, b in pairwise(starts)]


class Keys(Sequence[str]):
    """The names of samples, each made when it is asked for."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        places = range(len(self))[index]
        return self._samples.key(places) if isinstance(places, int) else [self._samples.key(k) for k in places]

    def __iter__(self) -> Iterator[str]:
        return (key.decode("utf-8", "surrogatepass") for key in self._samples.key_bytes())

    def encoded(self) -> Iterator[bytes]:
        """Every name in UTF-8."""
        return self._samples.key_bytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def columns_of(
    numbers: Mapping[str, Sequence[float] | np.ndarray],
    keys: Sequence[str],
    labels: Sequence[Sequence[Sequence[float]]],
    tables: Sequence[Sequence[int]],
) -> Samples:
    """Samples of which each column is given. Raises ValueError for a number that has no place in its column."""
    columns = {name: _narrow(numbers[name], kind, name) for name, kind in NUMBERS.items()}
    texts = [key.encode("utf-8", "surrogatepass") for key in keys]
    columns |= {"keys": _starts([len(text) for text in texts]), "text": np.frombuffer(b"".join(texts), np.uint8)}
    columns["labels"] = _starts([len(rows) for rows in labels])
    classes, starts, ends = zip(*chain.from_iterable(labels), strict=True) if any(labels) else ((), (), ())
    columns |= {"class": _narrow(classes, np.int32, "class")}
    columns |= {"start": np.array(starts, np.float64), "end": np.array(ends, np.float64)}
    columns |= {"tables": _starts([len(table) for table in tables])}
    columns |= {"table": _narrow([*chain.from_iterable(tables)], np.int64, "times")}
    return Samples(columns)


def _narrow(values: Sequence[float] | np.ndarray, kind: type[np.number], name: str) -> np.ndarray:
    if not issubclass(kind, np.integer):
        return np.asarray(values, kind)
    try:
        wide = np.asarray(values, np.int64)
    except OverflowError:
        raise ValueError(f"{name}: a whole number of more than 63 bits") from None
    room = np.iinfo(kind)
    if len(wide) and not room.min <= int(wide.min()) <= int(wide.max()) <= room.max:
        raise ValueError(f"{name}: {int(wide.min())} to {int(wide.max())} is not from {room.min} to {room.max}")
    return wide.astype(kind)


def _starts(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts.astype(np.uint32) if starts[-1] < 1 << 32 else starts


def _from_shared(shared: SharedArrays) -> Samples:
    samples = Samples(shared.arrays)
    samples._shared = shared
    return samples
