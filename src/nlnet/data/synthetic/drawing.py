"""What the built-in clips have in common: how they are drawn and written."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nlnet.data.shards.manifest import Sample, Shard
from nlnet.data.shards.writer import RawSample, write_shard

CLIPS_PER_SHARD = 256


def background(rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
    """A dim tinted wall, lit from one side: (T, H, W, 3)."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    light_HW = rng.uniform(40, 80) + rng.uniform(-20, 20) * y + rng.uniform(-20, 20) * x
    return np.repeat((light_HW[..., None] + rng.uniform(-15, 15, 3))[None], frames, axis=0)


def paint(frames_THWC: np.ndarray, coverage_THW: np.ndarray, color: np.ndarray) -> None:
    """Mixes a color into the frames, in place, as far as the coverage in [0, 1] says."""
    frames_THWC += coverage_THW[..., None] * (color - frames_THWC)


def write_clips(
    folder: Path, dataset: str, split: str, count: int, make: Callable[[int], RawSample]
) -> tuple[list[Shard], list[Sample]]:
    """Writes the clips `make(0)` to `make(count - 1)` in order, made a thread a core: encoders work without Python's
    lock."""
    shards: list[Shard] = []
    samples: list[Sample] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, CLIPS_PER_SHARD):
            path = folder / f"{dataset}-{split}-{len(shards):06d}.tar"
            made = pool.map(make, range(start, min(start + CLIPS_PER_SHARD, count)))
            shard, written = write_shard(path, len(shards), made)
            shards.append(shard)
            samples.extend(written)
    return shards, samples
