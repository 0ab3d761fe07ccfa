"""Batches of clips with the regions of their frames, which go through the clip's own crop and mirroring."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from nlnet.data.batches.base import Batch
from nlnet.data.batches.clip_transforms import Crop
from nlnet.data.batches.clips import Clip, ClipBatches
from nlnet.data.shards.manifest import Sample
from nlnet.data.shards.reader import SampleError
from nlnet.data.shards.regions.boxes import VideoRegions

_LEAST = 1e-3  # of the crop's side: what is left of a box is as wide and high


class Regions(Protocol):
    """Where the regions of videos are."""

    def of(self, key: str) -> VideoRegions:
        """Those of the video `key`. Raises OSError or ValueError."""


def region_frames(frames: int, count: int) -> np.ndarray:
    """Which of a clip's `frames` the `count` frames of the feature map stand for: every (frames / count)-th one."""
    return np.arange(count) * frames // count


def cropped_boxes(boxes: np.ndarray, height: int, width: int, crop: Crop) -> np.ndarray:
    """Boxes (n, 4) of a frame of height x width in its crop, as fractions of the sides before and after.

    What a box loses to the crop is cut off; one of which nothing is left is left out. A mirrored crop mirrors them.
    """
    pixels = boxes * [width, height, width, height]
    inside = ((pixels - [crop.left, crop.top, crop.left, crop.top]) / crop.side).clip(0, 1)
    inside = inside[((inside[:, 2:] - inside[:, :2]) >= _LEAST).all(1)]
    return np.stack([1 - inside[:, 2], inside[:, 1], 1 - inside[:, 0], inside[:, 3]], 1) if crop.flip else inside


def clip_boxes(
    video: VideoRegions, frames: np.ndarray, size: tuple[int, int], crop: Crop, shape: tuple[int, int, int]
) -> np.ndarray:
    """The boxes of a clip, `shape` = (R, N, 4): the first N of R frames, as fractions of the crop's sides.

    Args:
        video: the regions of its video.
        frames: (T,) the stored frames of the clip.
        size: height and width of the video.
        crop: what is cut out of each frame.

    A frame with fewer is filled up with zeros.
    """
    out = np.zeros(shape, np.float32)
    for k, boxes in enumerate(video.near(frames[region_frames(len(frames), shape[0])])):
        kept = cropped_boxes(boxes, *size, crop)[: shape[1]]
        out[k, : len(kept)] = kept
    return out


class RegionClipBatches(ClipBatches):
    """Batches of clips with `boxes` (B, R, N, 4) float besides: the first N regions of R frames of each clip.

    Args:
        clip: the arguments of `ClipBatches`.
        regions: where the regions are.
        frames: R.
        per_frame: N.
    """

    def __init__(self, *clip: Any, regions: Regions, frames: int, per_frame: int) -> None:
        super().__init__(*clip)
        self.regions, self.shape = regions, (frames, per_frame, 4)

    def beside(self, sample: Sample, frames: np.ndarray, crop: Crop) -> np.ndarray:
        """(R, N, 4) as fractions of the crop's sides; zeros where a frame has fewer."""
        try:
            video = self.regions.of(sample.key)
        except (OSError, ValueError, EOFError) as error:
            raise SampleError("no regions", f"{sample.key}: its regions cannot be read: {error}") from error
        return clip_boxes(video, frames, (sample.height, sample.width), crop, self.shape)

    def collate(self, indices: np.ndarray, items: Sequence[Clip | None]) -> Batch:
        none = np.zeros(self.shape, np.float32)
        boxes = [none if item is None else item.beside for item in items]
        return super().collate(indices, items) | {"boxes": torch.from_numpy(np.stack(boxes))}
