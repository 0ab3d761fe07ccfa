"""Batches of video clips: which clip and crop, decoded uint8 frames, targets."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from nlnet.data.batches.base import Batch, RankSlice, ShardBatches
from nlnet.data.batches.clip_transforms import Crop, center_crop, color_factors, random_crop
from nlnet.data.batches.sampling import ClipGeometry, active_classes, center_start, frame_indices, random_start
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.suffixes import VIDEO_MEMBERS
from nlnet.data.media.video import Box, VideoError
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.reader import SampleError, read_sample
from nlnet.data.shards.source import DEFAULTS, ReadSettings, ShardSource
from nlnet.data.shards.tar import TarError, sample_members


@dataclass(frozen=True)
class ClipSettings:
    """How a clip is cut from a video, for training (random) or for evaluation (the middle)."""

    geometry: ClipGeometry
    size: int
    scale: tuple[int, int]
    flip: bool
    train: bool
    color_jitter: float = 0.0
    decoder: str = "pyav"


class Clip(NamedTuple):
    """Frames (T, side, side, 3) uint8, whether to mirror them, color factors (3,), the classes they show, and what
    `ClipBatches.beside` says of them."""

    frames: np.ndarray
    flip: bool
    colors: np.ndarray
    classes: list[int]
    beside: Any = None


def read_video(manifest: Manifest, root: str, sample: Sample, settings: ReadSettings = DEFAULTS) -> bytes:
    """The encoded video of one sample: a ranged read, whose CRC32 is checked before anything parses it.

    Raises SampleError.
    """
    data = read_sample(ShardSource(root, manifest.shards, settings), sample)
    try:
        return video_member(sample, sample_members(data, VIDEO_MEMBERS))
    except TarError as error:
        raise SampleError("malformed", f"{sample.key}: {error}") from error


def video_member(sample: Sample, members: dict[str, bytes]) -> bytes:
    """The one video among a sample's members. Raises SampleError."""
    if len(members) != 1:
        raise SampleError(
            "malformed", f"{sample.key}: {len(members)} videos ({', '.join(VIDEO_MEMBERS)}) in one sample"
        )
    return next(iter(members.values()))


class ClipBatches(ShardBatches[Sample, Clip]):
    """Batches of clips: `clips` (uint8 (T, H, W, 3) each), `flips` (B,), `colors` (B, 3) where colors are jittered,
    `targets` (B, classes) float or (B,) long, and what every batch of shards holds.

    With `repeats` a training batch has so many clips of each of its videos, each with a start, a crop and colors of its
    own, from one decoding of the video.
    """

    suffixes = VIDEO_MEMBERS
    manifest: Manifest

    def __init__(
        self,
        manifest: Manifest,
        root: str,
        view: ClipSettings,
        rank_slice: RankSlice,
        seed: int,
        window: int,
        settings: ReadSettings = DEFAULTS,
        repeats: int = 1,
    ) -> None:
        super().__init__(
            manifest, root, rank_slice, seed=seed, window=window, train=view.train, settings=settings, repeats=repeats
        )
        self.view = view

    def decode(self, sample: Sample, members: dict[str, bytes], epoch: int) -> Clip:
        return self.decode_all(sample, members, epoch)[0]

    def decode_all(self, sample: Sample, members: dict[str, bytes], epoch: int) -> list[Clip]:
        # From (seed, epoch, sample): what a sample looks like depends on no other sample and on no history.
        rng = np.random.default_rng((self.seed, epoch, zlib.crc32(sample.key.encode(errors="surrogatepass"))))
        video = sample.times.resampled(self.view.geometry.fps)
        drawn = [self._draw(sample, video.times.frames, rng) for _ in range(self.repeats)]
        # All frames that any clip shows, once, as far as any crop of them goes.
        stored = [video.stored(indices) for _, indices, _ in drawn]
        wanted = np.unique(np.concatenate(stored))
        around = surrounding([crop for crop, _, _ in drawn])
        frames = decode_frames(sample, video_member(sample, members), wanted, around, self.view.decoder)
        clips = []
        for (crop, indices, colors), places in zip(drawn, stored, strict=True):
            top, left = crop.top - around[0], crop.left - around[1]
            part = frames[:, top : top + crop.side, left : left + crop.side]
            classes = active_classes(sample, indices if self.view.train else None, video.times)
            beside = self.beside(sample, places, crop)
            clips.append(Clip(_chosen(part, wanted, places), crop.flip, colors, classes, beside))
        return clips

    def beside(self, sample: Sample, frames: np.ndarray, crop: Crop) -> Any:
        """What else belongs to the stored `frames` (T,) of a clip cut to `crop`; for subclasses, which collate it.

        Raises SampleError.
        """
        return None

    def collate(self, indices: np.ndarray, items: Sequence[Clip | None]) -> Batch:
        view = self.view
        blank = Clip(np.zeros((view.geometry.frames, view.size, view.size, 3), np.uint8), False, np.ones(3), [])
        whole = [item or blank for item in items]
        clips = [torch.from_numpy(item.frames) for item in whole]
        batch: Batch = {
            "clips": torch.stack(clips) if len({clip.shape for clip in clips}) == 1 else clips,
            "flips": torch.tensor([item.flip for item in whole]),
            "targets": target_tensor(self.manifest, [item.classes for item in whole]),
        }
        if view.train and view.color_jitter:
            batch["colors"] = torch.tensor(np.stack([item.colors for item in whole]), dtype=torch.float32)
        return batch

    def _draw(self, sample: Sample, frames: int, rng: np.random.Generator) -> tuple[Crop, np.ndarray, np.ndarray]:
        """The crop, which of the video's `frames` the clip takes, and the factors of its colors."""
        view, height, width = self.view, sample.height, sample.width
        if view.train:
            start = random_start(view.geometry, frames, rng)
            crop = random_crop(height, width, view.size, view.scale, view.flip, rng)
        else:
            start = center_start(view.geometry, frames)
            crop = center_crop(height, width, view.size, view.scale[0])
        colors = color_factors(view.color_jitter if view.train else 0.0, rng)
        return crop, frame_indices(view.geometry, frames, start), colors


def surrounding(crops: Sequence[Crop]) -> Box:
    """The smallest part of the picture that has all of these squares in it."""
    top, left = min(crop.top for crop in crops), min(crop.left for crop in crops)
    below, right = max(crop.top + crop.side for crop in crops), max(crop.left + crop.side for crop in crops)
    return top, left, below - top, right - left


def _chosen(frames: np.ndarray, numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Of `frames`, which have these rising `numbers`, those that are wanted, as pixels of their own."""
    if len(numbers) == len(wanted) and (numbers == wanted).all():
        return np.ascontiguousarray(frames)
    return np.ascontiguousarray(frames[np.searchsorted(numbers, wanted)])


def target_tensor(manifest: Manifest, classes: Sequence[Sequence[int]]) -> torch.Tensor:
    """The targets of videos with these classes: (B,) long for one class each, (B, classes) of 0 and 1 for several."""
    if manifest.task == "multiclass":
        return torch.tensor([labels[0] if labels else 0 for labels in classes])
    targets = torch.zeros(len(classes), len(manifest.classes))
    for row, labels in enumerate(classes):
        targets[row, list(labels)] = 1
    return targets


def decode_frames(sample: Sample, video: bytes, indices: np.ndarray, crop: Box | None, decoder: str) -> np.ndarray:
    """The frames at `indices`, cut to `crop`, whole for None. Raises SampleError."""
    try:
        return decode_clip(video, indices, crop=crop, decoder=decoder)
    except VideoError as error:
        raise SampleError(error.cause, f"{sample.key}: {error}") from error
    except IndexError as error:  # the video ends before the frame that the manifest promises
        raise SampleError("short", f"{sample.key}: {error}") from error
