"""Batches without videos: what a sample holds is its own number, so that thousands cost nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlnet.data.batches.base import Batch, RankSlice, ShardBatches
from nlnet.data.media.video import VideoInfo
from nlnet.data.shards.manifest import Manifest, Sample, write_manifest
from nlnet.data.shards.reader import SampleError
from nlnet.data.shards.source import DEFAULTS
from nlnet.data.shards.writer import RawSample, write_shard

UNEVEN = (5, 11, 3, 8, 1, 9, 6)


def write_numbers(folder: Path, sizes: Sequence[int] = UNEVEN) -> Manifest:
    """Shards of `sizes` samples, numbered through."""
    shards, samples = [], []
    for s, size in enumerate(sizes):
        raws = [
            RawSample(f"n{k}", str(k).encode(), VideoInfo(1, 1.0, 1, 1), ())
            for k in range(len(samples), len(samples) + size)
        ]
        shard, rows = write_shard(folder / f"numbers-train-{s:06d}.tar", s, raws)
        shards.append(shard)
        samples += rows
    manifest = Manifest("numbers", "train", "multilabel", ("any",), {}, tuple(shards), tuple(samples))
    write_manifest(folder, manifest)
    return manifest


class Numbers(ShardBatches[Sample, int]):
    """`numbers` (B,): what each sample holds, -1 where there is none."""

    suffixes = ("mp4",)

    def __init__(self, manifest: Manifest, root: str, share: RankSlice, *, train: bool = True, **options: Any) -> None:
        options = {"seed": 1, "window": 3, "settings": DEFAULTS} | options
        super().__init__(manifest, root, share, train=train, **options)

    def decode(self, sample: Sample, members: dict[str, bytes], epoch: int) -> int:
        if members["mp4"] == b"bad":
            raise SampleError("undecodable", sample.key)
        return int(members["mp4"])

    def collate(self, indices: np.ndarray, items: Sequence[int | None]) -> Batch:
        return {"numbers": torch.tensor([-1 if item is None else item for item in items])}
