"""All clips of a video that a test looks at, whole frames, from one decoding of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from nlnet.data.batches.base import Batch, RankSlice, ShardBatches
from nlnet.data.batches.clips import decode_frames, target_tensor, video_member
from nlnet.data.batches.sampling import ClipGeometry, active_classes, clip_frames
from nlnet.data.media.suffixes import VIDEO_MEMBERS
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.source import DEFAULTS, ReadSettings


class Video(NamedTuple):
    """The frames that some clip needs (N, H, W, 3) uint8, where each clip finds its own (clips, T), its classes."""

    frames: np.ndarray
    frame_indices: np.ndarray
    classes: list[int]


class ViewBatches(ShardBatches[Sample, Video]):
    """The videos of a test: `videos`, a uint8 tensor (N, H, W, 3) each, `frame_indices`, a tensor (clips, T) of indices
    into it each, both of those that could be read alone, `targets` (B, ...), and what every batch of shards holds."""

    suffixes = VIDEO_MEMBERS
    manifest: Manifest

    def __init__(
        self,
        manifest: Manifest,
        root: str,
        rank_slice: RankSlice,
        geometry: ClipGeometry,
        *,
        clips: int,
        starts: str = "official",
        decoder: str = "pyav",
        settings: ReadSettings = DEFAULTS,
    ) -> None:
        super().__init__(manifest, root, rank_slice, seed=0, window=1, train=False, settings=settings)
        self.geometry, self.clips, self.starts, self.decoder = geometry, clips, starts, decoder

    def decode(self, sample: Sample, members: dict[str, bytes], epoch: int) -> Video:
        video = sample.times.resampled(self.geometry.fps)
        indices = clip_frames(self.starts, self.geometry, video.times.frames, video.times.fps, self.clips)
        wanted, frame_indices = np.unique(video.stored(indices), return_inverse=True)
        frames = decode_frames(sample, video_member(sample, members), wanted, None, self.decoder)
        return Video(frames, frame_indices.reshape(indices.shape), active_classes(sample))

    def collate(self, indices: np.ndarray, items: Sequence[Video | None]) -> Batch:
        read = [item for item in items if item is not None]
        return {
            "videos": [torch.from_numpy(item.frames) for item in read],
            "frame_indices": [torch.from_numpy(item.frame_indices) for item in read],
            "targets": target_tensor(self.manifest, [item.classes if item else [] for item in items]),
        }
