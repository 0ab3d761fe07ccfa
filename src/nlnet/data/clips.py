"""Which frames of a video a clip takes, and which of its labels hold for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlnet.data.manifest import Sample


@dataclass(frozen=True)
class ClipGeometry:
    """`frames` frames, every `stride`-th: 32x2 covers 64 consecutive frames (paper section 4.1)."""

    frames: int
    stride: int

    @property
    def span(self) -> int:
        """Source frames that the clip covers."""
        return self.frames * self.stride


def random_start(geometry: ClipGeometry, frames: int, rng: np.random.Generator) -> int:
    """A start drawn uniformly from 0 to `frames - span`, 0 for a shorter video."""
    return int(rng.integers(0, max(frames - geometry.span, 0) + 1))


def center_start(geometry: ClipGeometry, frames: int) -> int:
    """The start of the clip in the middle of the video."""
    return max(frames - geometry.span, 0) // 2


def frame_indices(geometry: ClipGeometry, frames: int, start: int) -> np.ndarray:
    """The clip's frames; a video shorter than the clip is repeated cyclically, as in the official code."""
    return (start + np.arange(geometry.frames) * geometry.stride) % frames


def active_classes(sample: Sample, indices: Sequence[int] | np.ndarray | None = None) -> list[int]:
    """The classes whose interval overlaps the time between the first and the last of `indices`; all of them for None.

    The first is the label of a training clip, the second, the union over the video, the label at test
    (Charades, paper section 5.2).
    """
    if indices is None:
        return sorted({label for label, _, _ in sample.labels})
    first, last = min(indices) / sample.fps, max(indices) / sample.fps
    return sorted({label for label, start, end in sample.labels if start <= last and end >= first})
