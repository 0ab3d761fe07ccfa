"""Frames to seconds and back."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from nlnet.data.media.times import Times, times_of
from nlnet.data.media.video import FrameTicks
from nlnet.data.shards.fields import time_table

RATES = (Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15), Fraction(60), Fraction(10, 3))
BASES = (Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 12800), Fraction(1, 600))


def exact(ticks: list[int], base: Fraction, begin: Fraction) -> list[float]:
    return [float((tick - ticks[0]) * base + begin) for tick in ticks]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("rate", RATES)
def test_a_constant_rate_needs_no_table_or_three_numbers(rate: Fraction, base: Fraction) -> None:
    ticks = [floor(k / rate / base + Fraction(1, 2)) for k in range(500)]
    for told in (rate, Fraction(25)):  # what the file says of its rate may be wrong
        for begin in (Fraction(0), Fraction(3, 2), Fraction(-1, 3)):
            times = times_of(ticks, base, begin, told)
            if begin >= 0:  # thirds make the ticks finer than the file's, of which halves are left
                assert len(times.table) in (0, 3)
            assert times.fps == pytest.approx(float(rate), rel=1e-3)
            np.testing.assert_allclose(times.seconds(range(500)), exact(ticks, base, begin), atol=1e-12, rtol=1e-12)


def test_random_times_come_back_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        base, begin = BASES[rng.integers(4)], Fraction(int(rng.integers(-900, 9000)), int(rng.integers(1, 48001)))
        ticks = np.cumsum(rng.integers(0, 5000, rng.integers(1, 60))).tolist()
        times = times_of(ticks, base, begin, Fraction(25))
        np.testing.assert_allclose(times.seconds(range(times.frames)), exact(ticks, base, begin), atol=1e-12)
        assert not times.table or time_table(list(times.table), times.frames, "") == times.table
        k = rng.integers(0, times.frames, (2, 3))
        assert times.seconds(k).shape == (2, 3)


def test_nearest_and_end() -> None:
    times = times_of([0, 33, 66, 266, 466], Fraction(1, 1000), Fraction(1543, 1000), Fraction(25))
    assert times.table == (1, 1000, 1543, 33, 33, 200, 200)
    assert times.seconds([0, 4]).tolist() == [1.543, 2.009]
    assert times.nearest([-5, 1.55, 1.57, 1.7, 1.72, 99]).tolist() == [0, 0, 1, 2, 3, 4]
    assert times.end == pytest.approx(2.009 + 0.466 / 4)
    assert Times(50, 25.0).end == 2.0
    assert Times(50, 25.0).nearest([0.059, 0.061, 3.0]).tolist() == [1, 2, 49]


SIXTHS = Fraction(1, 180)
SLOWER = [*range(0, 45 * 6, 6), *(270 + 36 * k for k in range(8))]  # 1.5 s of 30 frames a second, 1.6 s of 5


def plain_resampling(times: list[Fraction], rate: Fraction, fps: Fraction) -> list[tuple[Fraction, int]]:
    """(time, nearest frame) of every i with i / fps before the end, one after the other."""
    end, found = len(times) / rate, list[tuple[Fraction, int]]()
    while not found or len(found) / fps < end:
        wanted = times[0] + len(found) / fps
        found.append((wanted, min(range(len(times)), key=lambda k: (abs(times[k] - wanted), k))))
    return found


RESAMPLED = {
    "25": ([k * 40 for k in range(52)], Fraction(1, 1000)),
    "ntsc": ([k * 1001 for k in range(60)], Fraction(1, 30000)),
    "rounded": ([round(k * 1000 / 30) for k in range(60)], Fraction(1, 1000)),
    "slower": (SLOWER, SIXTHS),
    "faster": ([600 - tick for tick in reversed(SLOWER)], SIXTHS),
    "uneven": (np.cumsum(np.random.default_rng(0).integers(1, 9000, 60)).tolist(), Fraction(1, 90000)),
    "still": ([0, 5000], Fraction(1, 1000)),
    "one": ([0], Fraction(1, 1000)),
}
ASKED = (24, 30, 25, 20, 60, 12.5, 5, 1, 0.5, 29.97, 23.976, 30000 / 1001)


@pytest.mark.parametrize("begin", [Fraction(0), Fraction(1543, 1000), Fraction(-12345, 48001)])
@pytest.mark.parametrize("name", RESAMPLED)
def test_resampled_frames_are_the_nearest_in_exact_arithmetic(name: str, begin: Fraction) -> None:
    ticks, base = RESAMPLED[name]
    times = times_of(ticks, base, begin, Fraction(25))
    seconds = [(tick - ticks[0]) * base + begin for tick in ticks]
    rate = Fraction(times.fps).limit_denominator(10**6)
    for fps in ASKED:
        expected = plain_resampling(seconds, rate, Fraction(fps).limit_denominator(1001))
        video = times.resampled(fps)
        frames = np.arange(video.times.frames)
        assert video.stored(frames).tolist() == [k for _, k in expected], fps
        np.testing.assert_allclose(video.times.seconds(frames), [float(t) for t, _ in expected], atol=2e-9)
        assert video.times.fps == fps


def test_of_two_frames_that_are_as_near_the_earlier_is_taken() -> None:
    """20 of 30 a second: 0.05 s is between 1/30 and 2/30, 0.15 s between 4/30 and 5/30."""
    for begin in (Fraction(0), Fraction(7, 3)):
        times = times_of([k * 6 for k in range(90)], SIXTHS, begin, Fraction(30))
        assert times.resampled(20).stored(np.arange(5)).tolist() == [0, 1, 3, 4, 6]
        assert times.resampled(60).stored(np.arange(5)).tolist() == [0, 0, 1, 1, 2]


def test_the_own_rate_leaves_the_frames_as_they_are() -> None:
    for name in ("25", "ntsc", "rounded", "one"):
        for begin in (Fraction(0), Fraction(1543, 1000)):
            times = times_of(*RESAMPLED[name], begin, Fraction(25))
            for fps in (None, times.fps):
                video, frames = times.resampled(fps), np.arange(times.frames)
                assert (video.times, video.source) == (times, times)
                assert video.stored(frames) is frames


class Stream:
    start_time, average_rate, guessed_rate, time_base = 100, Fraction(25), None, Fraction(1, 1000)


@pytest.mark.parametrize(
    ("pts", "known", "ticks"),
    [
        ([100, 140, 180], (), [100, 140, 180]),
        ([None, None, 200], (), [100, 140, 200]),
        ([100, None, None, 220], (), [100, 140, 180, 220]),
        ([100, 100, 99, 180], (), [100, 101, 102, 180]),
        ([60000, 60040, 5, 45], (), [60000, 60040, 60080, 60120]),  # the clock was set anew
        ([3, 5, 4], [7, 9, 8], [7, 8, 9]),
        ([3, 5, 4], [7, None, 8], [3, 5, 6]),
    ],
)
def test_times_from_a_decoder_rise(pts: list[int | None], known: list[int | None], ticks: list[int]) -> None:
    tick_of = FrameTicks(Stream(), known)
    assert [tick_of(time) for time in pts] == ticks
