"""The regions of one video: boxes of some of its frames, and the bytes that they are stored as."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 65535  # of a side: a stored coordinate is off by at most half a step
_HEAD = np.dtype("<u4")
_SHORT = np.dtype("<u2")


@dataclass(frozen=True)
class VideoRegions:
    """Boxes of a video's frames, the best of a frame first.

    `frames` (F,) are the frames that were looked at, rising; frame k has `counts[k]` of `boxes` (sum of counts, 4):
    left, top, right, bottom as fractions of the frame's sides.
    """

    frames: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray

    @staticmethod
    def of(frames: dict[int, np.ndarray]) -> "VideoRegions":
        """From the boxes (n, 4) of each frame."""
        rising = sorted(frames)
        boxes = [np.asarray(frames[k], np.float64).reshape(-1, 4) for k in rising]
        counts = np.array([len(some) for some in boxes], np.int64)
        return VideoRegions(np.array(rising, np.int64), counts, np.concatenate([np.zeros((0, 4)), *boxes]))

    @staticmethod
    def joined(parts: Sequence["VideoRegions"]) -> "VideoRegions":
        """Those of one video, of frames that follow one another."""
        each = [(part.frames, part.counts, part.boxes) for part in parts]
        return VideoRegions(*(np.concatenate(some) for some in zip(*each, strict=True)))

    def near(self, wanted: np.ndarray) -> list[np.ndarray]:
        """The boxes (n, 4) of the frame that is nearest to each of `wanted`, of two the earlier one."""
        if not len(self.frames):
            return [np.zeros((0, 4)) for _ in wanted]
        ends = np.cumsum(self.counts)
        after = np.searchsorted(self.frames, wanted).clip(max=len(self.frames) - 1)
        before = (after - 1).clip(min=0)
        nearer = np.abs(self.frames[before] - wanted) <= np.abs(self.frames[after] - wanted)
        return [self.boxes[ends[k] - self.counts[k] : ends[k]] for k in np.where(nearer, before, after)]

    def pack(self) -> bytes:
        """The number of frames and the frames in 4 bytes each, then counts and coordinates in 2, little-endian."""
        steps = np.rint(self.boxes.clip(0, 1) * STEPS)
        head = np.array([len(self.frames), *self.frames], _HEAD)
        return head.tobytes() + self.counts.astype(_SHORT).tobytes() + steps.astype(_SHORT).tobytes()


def unpack(data: bytes) -> VideoRegions:
    """What `VideoRegions.pack` made. Raises ValueError for other bytes."""
    frames = int(np.frombuffer(data, _HEAD, 1)[0])
    numbers = np.frombuffer(data, _HEAD, frames, 4)
    counts = np.frombuffer(data, _SHORT, frames, 4 + 4 * frames).astype(np.int64)
    steps = np.frombuffer(data, _SHORT, -1, 4 + 6 * frames)
    if len(steps) != 4 * counts.sum():
        raise ValueError(f"{len(steps)} coordinates for {counts.sum()} boxes")
    return VideoRegions(numbers.astype(np.int64), counts, steps.reshape(-1, 4) / STEPS)
