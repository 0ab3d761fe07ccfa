"""Whether the samples of a manifest can be: each value held against the shards, the classes and the limits."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from nlnet import limits
from nlnet.data.shards.columns.rows import Wide
from nlnet.data.shards.columns.samples import Keys


def check_samples(samples: Wide, shard_bytes: np.ndarray, classes: int) -> None:
    """Raises ValueError, which names the first sample that cannot be.

    Args:
        samples: their columns.
        shard_bytes: (S,) the size of each shard.
        classes: how many there are.
    """
    n = samples.numbers
    known = (n["shard"] >= 0) & (n["shard"] < len(shard_bytes))
    size = shard_bytes[np.where(known, n["shard"], 0)] if len(shard_bytes) else np.zeros(len(known), np.int64)
    # Without sums and products, which would overflow
    inside = (n["offset"] >= 0) & (n["length"] > 0) & (n["length"] <= size) & (n["offset"] <= size - n["length"])
    most, pixels = limits.FRAMES.most, limits.PIXELS.most
    timed = (n["frames"] >= 1) & (n["frames"] <= most) & (n["fps"] > 0)
    width, height = n["width"], n["height"]
    sized = (width >= 1) & (height >= 1) & (height <= pixels // np.maximum(width, 1))
    good = known & inside & timed & sized & (n["crc32"] >= 0) & (n["crc32"] < 1 << 32)
    good &= np.fromiter(map(bool, samples.keys), bool, len(good))
    good &= _classes_fit(samples.labels, classes)
    if not good.all():
        raise ValueError(_problem(samples, int(np.argmin(good)), shard_bytes, classes))


def _classes_fit(labels: Iterable[list[Any]], classes: int) -> np.ndarray:
    """(N,) whether every label of a sample is of one of the classes."""
    rows = list(labels)
    right = np.array([0 <= label[0] < classes for label in chain.from_iterable(rows)], dtype=bool)
    fit = np.ones(len(rows), dtype=bool)
    fit[np.repeat(np.arange(len(rows)), list(map(len, rows)))[~right]] = False
    return fit


def _problem(samples: Wide, k: int, shard_bytes: np.ndarray, classes: int) -> str:
    """What is wrong with sample k."""
    n = {name: values[k].item() for name, values in samples.numbers.items()}
    said = f"sample {samples.keys[k]!r}"
    if not samples.keys[k] or not 0 <= n["crc32"] < 1 << 32:
        return f"{said} has the CRC32 {n['crc32']}, or no key"
    if not 0 <= n["shard"] < len(shard_bytes):
        return f"{said} lies in shard {n['shard']} of {len(shard_bytes)}"
    if not 0 <= n["offset"] < n["offset"] + n["length"] <= shard_bytes[n["shard"]]:
        return f"{said} lies outside its shard"
    if not 1 <= n["frames"] <= limits.FRAMES.most or not n["fps"] > 0:
        return f"{said} has {n['frames']} frames at {n['fps']} per second"
    if n["width"] < 1 or n["height"] < 1 or n["width"] * n["height"] > limits.PIXELS.most:
        return f"{said} has {n['width']} x {n['height']} pixels"
    return f"{said} has a class outside 0..{classes - 1}"


def check_keys_differ(keys: Keys) -> None:
    """Raises ValueError for a name that occurs twice."""
    hashes = np.fromiter(map(hash, keys.encoded()), np.int64, len(keys))
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():  # the same names have the same hash
        return
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"the key {key!r} occurs twice")
        seen.add(key)
