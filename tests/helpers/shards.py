"""Tiny shards whose labels can be learnt: bright bars say which classes a clip has."""

from pathlib import Path

import numpy as np

from nlnet.data.media.encode import encode_frames
from nlnet.data.media.video import VideoInfo
from nlnet.data.shards.manifest import Manifest, write_manifest
from nlnet.data.shards.writer import RawSample, write_shard

CLASSES = 4
FRAMES, SIZE, FPS = 8, 32, 8.0


def write_tiny(
    folder: Path, dataset: str = "charades", train: int = 34, val: int = 20, shards: int = 3, padding: int = 0
) -> Path:
    """`dataset` shards of random clips, of uneven size, with manifests for both splits.

    `padding` bytes are added to every video, in a box that players skip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    multilabel = dataset == "charades"
    for split, count in (("train", train), ("test" if multilabel else "val", val)):
        rng = np.random.default_rng(count)
        written, samples = [], []
        for s, part in enumerate(np.array_split(np.arange(count), shards)):
            raws = [_clip(f"{split}{k:04d}", rng, multilabel, padding) for k in part]
            shard, rows = write_shard(folder / f"{dataset}-{split}-{s:06d}.tar", s, raws)
            written.append(shard)
            samples += rows
        task = "multilabel" if multilabel else "multiclass"
        names = tuple(f"c{k:03d}" for k in range(CLASSES))
        write_manifest(folder, Manifest(dataset, split, task, names, {}, tuple(written), tuple(samples)))
    return folder


def _clip(key: str, rng: np.random.Generator, multilabel: bool, padding: int) -> RawSample:
    present = rng.integers(0, 2, CLASSES) if multilabel else np.eye(CLASSES, dtype=int)[rng.integers(CLASSES)]
    frames = rng.integers(0, 60, (FRAMES, SIZE, SIZE, 3)).astype(np.uint8)
    for k in np.flatnonzero(present):
        frames[:, 8 * k : 8 * k + 8, 4:12] += 150
    labels = tuple((int(k), 0.0, FRAMES / FPS) for k in np.flatnonzero(present))
    free = (8 + padding).to_bytes(4, "big") + b"free" + bytes(padding) if padding else b""
    return RawSample(key, encode_frames(frames, FPS) + free, VideoInfo(FRAMES, FPS, SIZE, SIZE), labels)
