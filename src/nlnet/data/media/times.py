"""When the frames of a video are shown: the one place where frames become seconds, and seconds become frames.

Seconds count from the beginning of the file, as a player shows them: zero is the start of its earliest stream, so a
video that starts after its sound starts later than zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd

import numpy as np
from numpy.typing import ArrayLike


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
        return np.where(wanted - times[before] <= times[after] - wanted, before, after)


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
