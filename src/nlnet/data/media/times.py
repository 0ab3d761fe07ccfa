"""When the frames of a video are shown: the one place where frames become seconds, and seconds become frames.

Seconds count from the beginning of the file, as a player shows them: zero is the start of its earliest stream, so a
video that starts after its sound starts later than zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd, lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Floats that differ by less mean the same second; no container counts in finer steps.
SAME_S = 1e-9


@dataclass(frozen=True, slots=True)
class Times:
    """t_k, the second at which frame k is shown, 0 <= k < `frames`.

    Without a table the rate is constant: t_k = k / fps. A table (num, den, start, step_1, ...) with `frames` - 1 steps
    counts in ticks of num / den seconds: t_k = (start + step_1 + ... + step_k) num / den. One without steps says that
    every frame lies within half a tick of a constant rate: t_k = (start + round(k den / (num fps))) num / den.

    Args:
        frames: how many, at least 1.
        fps: frames a second, the mean where they are at uneven distances.
        table: nothing, or 3 whole numbers, or `frames` + 2 of them.
    """

    frames: int
    fps: float
    table: tuple[int, ...] = ()

    @property
    def constant(self) -> bool:
        """Whether the frames lie at equal distances, but for less than a tick."""
        return len(self.table) <= 3

    @property
    def end(self) -> float:
        """The second at which the last frame ends, after 1 / fps."""
        return float(self.seconds(self.frames - 1)) + 1 / self.fps if self.table else self.frames / self.fps

    def seconds(self, frames: ArrayLike) -> np.ndarray:
        """t_k of each k in `frames`, of any shape, 0 <= k < `self.frames`."""
        k = np.asarray(frames, np.int64)
        if not self.table:
            return k / self.fps
        num, den, start, *steps = self.table
        ticks = _even(k, self.fps, num, den) if self.constant else np.cumsum([0, *steps])[k]
        return (start + ticks) * num / den

    def nearest(self, seconds: ArrayLike) -> np.ndarray:
        """The frames whose times are nearest to each of `seconds`; the earlier of two."""
        times, wanted = self.seconds(np.arange(self.frames)), np.asarray(seconds, np.float64)
        after = np.searchsorted(times, wanted).clip(max=self.frames - 1)
        before = (after - 1).clip(min=0)
        nearest = np.where(wanted - times[before] <= times[after] - wanted + SAME_S, before, after)
        return np.searchsorted(times, times[nearest])  # of frames at the same time the first

    def resampled(self, fps: float | None) -> "Resampled":
        """The video at `fps` frames a second: frame i at t_0 + i / fps, for every i with a time before the video's end.

        It ends 1 / `self.fps` after its last frame, so these are ceil(frames fps / self.fps), at least one. Each is the
        stored frame that is nearest in time; above the stored rate frames repeat. None, and the own rate of a video
        of constant rate, leave the frames as they are.
        """
        if fps is None or (self.constant and fps == self.fps):
            return Resampled(self, self)
        frames = max(1, ceil(self.frames * fps / self.fps - 1e-9))
        if not (self.table and self.table[2]):
            return Resampled(Times(frames, fps), self)
        num, den, start = self.table[:3]
        # Ticks that hold both the start and the distance of two frames; or nanoseconds, where there are none so coarse.
        ticks = min(lcm(den, exact_rate(fps).numerator), 10**9)
        return Resampled(Times(frames, fps, (1, ticks, round(Fraction(start * num * ticks, den)))), self)


class Resampled(NamedTuple):
    """A video at another rate: when its frames are shown, and when those that are stored."""

    times: Times
    source: Times

    def stored(self, frames: np.ndarray) -> np.ndarray:
        """The stored frame that each of `frames` is."""
        return frames if self.times is self.source else self.source.nearest(self.times.seconds(frames))


def exact_rate(fps: float) -> Fraction:
    """A rate as a fraction: 24000/1001 for 23.976023976."""
    return Fraction(fps).limit_denominator(1001)


def times_of(ticks: Sequence[int], base: Fraction, begin: Fraction, rate: Fraction) -> Times:
    """The times of frames.

    Args:
        ticks: of each frame, in `base` seconds, none before the one before it.
        base: seconds a tick.
        begin: the second of the first frame.
        rate: frames a second, as the file says; taken where it fits, and for a single frame.
    """
    steps = np.diff(np.asarray(ticks, np.int64))
    # The coarsest ticks that hold all of it: files count in finer ones than they use.
    common = int(np.gcd.reduce(steps)) or 1
    unit = _unit(base * common, begin)
    num, den = unit.as_integer_ratio()
    start, steps = int(begin / unit), steps // common * int(base * common / unit)
    fps = _constant_rate(steps, unit, rate)
    if fps is None:
        mean = float(len(steps) / (int(steps.sum()) * unit)) if steps.any() else float(rate)
        return Times(len(ticks), mean, (num, den, start, *map(int, steps)))
    if start == 0 and len(set(steps.tolist())) <= 1:
        return Times(len(ticks), fps)
    return Times(len(ticks), fps, (num, den, start))


def _unit(step: Fraction, begin: Fraction) -> Fraction:
    """The greatest length that both are multiples of."""
    scale = step.denominator * begin.denominator // gcd(step.denominator, begin.denominator)
    return Fraction(gcd(int(step * scale), int(begin * scale)), scale)


def _constant_rate(steps: np.ndarray, unit: Fraction, rate: Fraction) -> float | None:
    """A rate that puts every frame within half a tick of where it is; None where there is none."""
    if not len(steps):
        return float(rate)
    places, k = np.cumsum(steps), np.arange(1, len(steps) + 1)
    mean = Fraction(int(places[-1]), len(steps))  # ticks a frame, from the first to the last
    middle = Fraction((((places - 0.5) / k).max() + ((places + 0.5) / k).min()) / 2)
    for step in (mean, 1 / (rate * unit), middle):
        if step > 0 and np.array_equal(_even(k, fps := float(1 / (step * unit)), *unit.as_integer_ratio()), places):
            return fps
    return None


def _even(k: np.ndarray, fps: float, num: int, den: int) -> np.ndarray:
    """The ticks of num / den seconds that are nearest to k / fps; the later of two, also where floats miss the half."""
    return np.floor(k * (den / (num * fps)) + 0.500001).astype(np.int64)
