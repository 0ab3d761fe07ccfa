"""The order of samples: a pure function of the manifest, the seed and the epoch.

Nothing here knows ranks' histories or workers: batch `t` of epoch `e` is the same set of samples on any number of
machines, so a position in the data is just `(e, t)`.
"""

import numpy as np


def epoch_order(shard_of: np.ndarray, seed: int, epoch: int, window: int) -> np.ndarray:
    """A permutation of the samples for one epoch: shards permuted, samples shuffled within windows of shards.

    Args:
        shard_of: (n,) the shard of each sample.
        seed: the run's seed.
        epoch: counted from 0; every epoch has its own order.
        window: how many shards are mixed at a time. Reading stays local to them; at least the number of shards gives
            a full shuffle.
    """
    rng = np.random.default_rng((seed, epoch))
    names, position_of = np.unique(shard_of, return_inverse=True)
    turn = np.empty(len(names), dtype=np.int64)
    turn[rng.permutation(len(names))] = np.arange(len(names))
    window_of = turn[position_of] // window
    shuffled = rng.permutation(len(shard_of))
    return shuffled[np.argsort(window_of[shuffled], kind="stable")]


def train_batch(order: np.ndarray, t: int, batch_size: int, rank: int, world_size: int) -> np.ndarray:
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
