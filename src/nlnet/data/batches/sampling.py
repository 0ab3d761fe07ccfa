"""Which frames of a video a clip takes, and which of its labels hold for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlnet.data.media.times import Times
from nlnet.data.shards.manifest import Sample

STARTS = ("official", "slowfast", "mmaction2", "lfb")
SLOWFAST_FPS = 30.0


@dataclass(frozen=True)
class ClipGeometry:
    """`frames` frames, every `stride`-th: 32x2 covers 64 consecutive frames (paper section 4.1).

    They are frames of the video at `fps` frames a second, as `nlnet.data.media.times.Times.resampled` has it; None for
    the frames as stored.
    """

    frames: int
    stride: int
    fps: float | None = None

    @property
    def span(self) -> int:
        """Frames of the video that the clip covers."""
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


def active_classes(
    sample: Sample, indices: Sequence[int] | np.ndarray | None = None, times: Times | None = None
) -> list[int]:
    """The classes whose interval overlaps the time from the first to the last of `indices`; all of them for None.

    The first is the label of a training clip, the second, the union over the video, the label at test
    (Charades, paper section 5.2). `times` are those of the frames that `indices` count; None for the stored frames'.
    """
    if indices is None:
        return sorted({label for label, _, _ in sample.labels})
    first, last = (times or sample.times).seconds([min(indices), max(indices)])
    return sorted({label for label, start, end in sample.labels if start <= last and end >= first})


def clip_frames(rule: str, geometry: ClipGeometry, frames: int, fps: float, clips: int) -> np.ndarray:
    """(clips, T) the frames of each clip of a test, in a video of n = `frames` frames; j counts clips, k frames of one.

    official: floor(j n / clips) + k stride, modulo n: the last clips go on at the video's beginning.
    slowfast: clips of L = T stride fps / 30 frames, with the mean rate of the video, as there; from
        max(n - L, 0) j / clips to L - 1 frames later in T equal steps, rounded down; beyond the end the last frame.
    mmaction2: round(j max(n - L, 0) / (clips - 1)) + k stride, modulo n, with L = (T - 1) stride + 1; the middle for a
        single clip.
    lfb: round(n / clips (j + 1/2)) - floor(T stride / 2) + k stride: the centres of the clips are those of equal parts
        of the video; before the beginning the first frame, beyond the end the last (Long-Term Feature Banks).
    """
    j, k = np.arange(clips)[:, None], np.arange(geometry.frames)[None, :]
    if rule == "official":
        return (j * frames // clips + k * geometry.stride) % frames
    if rule == "slowfast":
        length = geometry.span * fps / SLOWFAST_FPS
        first = max(frames - length, 0) * j / clips
        step = (length - 1) / (geometry.frames - 1) if geometry.frames > 1 else 0.0
        return np.clip(first + k * step, 0, frames - 1).astype(np.int64)
    if rule == "mmaction2":
        last = max(frames - (geometry.frames - 1) * geometry.stride - 1, 0)
        first = np.round(j * (last / (clips - 1))).astype(np.int64) if clips > 1 else np.array([[last // 2]])
        return (first + k * geometry.stride) % frames
    if rule == "lfb":
        centre = np.round(frames / clips * (j + 0.5)).astype(np.int64)
        return np.clip(centre - geometry.span // 2 + k * geometry.stride, 0, frames - 1)
    raise ValueError(f"clip starts {rule!r} are none of {', '.join(STARTS)}")
