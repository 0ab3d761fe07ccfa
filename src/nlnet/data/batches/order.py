"""The order of samples: a pure function of the manifest, the seed and the epoch.

Nothing here knows ranks' histories or workers: batch `t` of epoch `e` is the same set of samples on any number of
machines, so a position in the data is just `(e, t)`.
"""

from typing import Protocol

import numpy as np

WHOLE = 1 << 22
"""Samples up to which an epoch's order is one permutation, made as a whole; the most that a manifest may have unless a
limit is raised is less (`nlnet.limits.SAMPLES`). Beyond, each window has a permutation of its own."""


class Order(Protocol):
    """The samples of an epoch, one after the other."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: slice, /) -> np.ndarray: ...


class Shards:
    """Which samples are in which shard: `shard_of` (n,), and what is found out once for all epochs."""

    def __init__(self, shard_of: np.ndarray) -> None:
        counts = np.bincount(shard_of)
        self.shard_of, self.names = shard_of, np.flatnonzero(counts)
        self.counts = counts[self.names]
        self._begin = np.cumsum(self.counts) - self.counts
        in_order = bool((shard_of[1:] >= shard_of[:-1]).all())
        self._by_shard = None if in_order else np.argsort(shard_of, kind="stable")

    def __len__(self) -> int:
        return len(self.shard_of)

    def samples(self, k: int) -> np.ndarray:
        """The samples of the k-th shard that has any, in the order of the manifest."""
        begin, end = self._begin[k], self._begin[k] + self.counts[k]
        return np.arange(begin, end) if self._by_shard is None else self._by_shard[begin:end]


def epoch_order(shards: Shards, seed: int, epoch: int, window: int) -> Order:
    """A permutation of the samples for one epoch: shards permuted, samples shuffled within windows of shards.

    Args:
        shards: the shard of each sample.
        seed: the run's seed.
        epoch: counted from 0; every epoch has its own order.
        window: how many shards are mixed at a time. Reading stays local to them; at least the number of shards gives
            a full shuffle.
    """
    rng = np.random.default_rng((seed, epoch))
    turns = rng.permutation(len(shards.names))
    if len(shards) > WHOLE:
        return WindowedOrder(shards, turns, (seed, epoch), window)
    turn = np.empty(len(turns), dtype=np.int64)
    turn[turns] = np.arange(len(turns))
    window_of_name = np.zeros(int(shards.names.max(initial=0)) + 1, _smallest(len(turns) // window))
    window_of_name[shards.names] = turn // window
    shuffled = rng.permutation(len(shards))
    return shuffled[np.argsort(window_of_name[shards.shard_of[shuffled]], kind="stable")]


class WindowedOrder:
    """The order of an epoch, of which a window of shards is made at a time, by its own generator.

    Memory and time are those of a window, wherever it is: with 10^8 samples in 10^5 shards, a few thousand samples.

    Args:
        shards: of all samples.
        turns: (S,) the shards in the order of the epoch.
        seeds: of the generators: that of window w is seeded with these and w.
        window: how many shards.
    """

    def __init__(self, shards: Shards, turns: np.ndarray, seeds: tuple[int, int], window: int) -> None:
        self._shards, self._turns, self._seeds, self._window = shards, turns, seeds, window
        sizes = np.add.reduceat(shards.counts[turns], np.arange(0, len(turns), window))
        self._ends = np.cumsum(sizes)
        self._made: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, places: slice) -> np.ndarray:
        begin, end, _ = places.indices(len(self))
        if begin >= end:
            return np.empty(0, np.int64)
        first, last = np.searchsorted(self._ends, [begin, end - 1], side="right")
        start = int(self._ends[first - 1]) if first else 0
        samples = np.concatenate([self._samples(w) for w in range(int(first), int(last) + 1)])
        return samples[begin - start : end - start]

    def _samples(self, w: int) -> np.ndarray:
        if w not in self._made:
            if len(self._made) > 1:  # a batch lies in one or two
                self._made.clear()
            turns = self._turns[w * self._window : (w + 1) * self._window]
            samples = np.concatenate([self._shards.samples(k) for k in turns])
            self._made[w] = np.random.default_rng((*self._seeds, w)).permutation(samples)
        return self._made[w]


def _smallest(most: int) -> type[np.unsignedinteger]:
    """A type that holds 0 to `most`: NumPy sorts the small ones by radix, several times as fast."""
    return np.uint16 if most < 1 << 16 else np.uint64


def train_batch(order: Order, t: int, batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """The samples of global batch `t` that fall to `rank`: a contiguous part of `order[t * B : (t + 1) * B]`."""
    size = batch_size // world_size
    start = t * batch_size + rank * size
    return order[start : start + size]


def eval_batch(count: int, t: int, batch_size: int, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples of evaluation batch `t` for `rank` and a mask of the real ones; over all ranks each sample once.

    Short batches are padded with sample 0 and masked out, so that every rank runs equally many batches of one shape.
    """
    size = batch_size // world_size
    indices = t * batch_size + rank * size + np.arange(size)
    real = indices < count
    return np.where(real, indices, 0), real
