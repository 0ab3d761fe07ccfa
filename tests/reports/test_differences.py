"""Standard deviations and bootstrap intervals, against NumPy's plain ways."""

import numpy as np
import pytest

from helpers.run_folders import predictions
from nlnet.errors import UserError
from nlnet.evaluation.compare import compare, compare_means
from nlnet.reports.differences import Change, over_seeds, over_videos, spread


def test_the_standard_deviation_is_that_of_a_sample() -> None:
    values = [0.718, 0.716, 0.723]
    found = spread(values)
    assert found is not None
    mean = sum(values) / 3
    assert found.mean == pytest.approx(mean, rel=1e-14)
    assert found.deviation == pytest.approx((sum((v - mean) ** 2 for v in values) / 2) ** 0.5, rel=1e-12)
    assert spread([0.5]) == type(found)(0.5, None, 1)
    assert spread([]) is None


def test_over_seeds_is_a_paired_percentile_bootstrap() -> None:
    rng = np.random.default_rng(7)
    baseline = dict(enumerate(rng.normal(70, 5, 12)))
    row = {seed: value + gain for (seed, value), gain in zip(baseline.items(), rng.normal(1, 0.3, 12), strict=True)}
    found = over_seeds(row, baseline)
    gains = np.array([row[seed] - baseline[seed] for seed in baseline])
    resampled = gains[np.random.default_rng(1).integers(0, 12, (100_000, 12))].mean(1)
    assert found is not None
    assert found.value == pytest.approx(gains.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))), abs=0.02)
    assert found.high - found.low < 1  # the seeds scatter by 5 and are paired
    assert found.over == "12 seeds"


def test_only_common_seeds_are_paired() -> None:
    assert over_seeds({0: 3.0, 1: 9.0}, {0: 1.0, 2: 5.0}) == Change(2.0, None, None, "1 seed")
    assert over_seeds({0: 3.0, 1: 5.0}, {2: 1.0}) == Change(3.0, None, None, "no common seed")
    assert over_seeds({0: 3.0}, {}) is None
    two = over_seeds({0: 3.0, 1: 5.0}, {1: 1.0, 0: 1.0})
    assert two == Change(3.0, 2.0, 4.0, "2 seeds")


def test_over_videos_draws_the_same_videos_for_every_run() -> None:
    rows = [predictions(seed, 0.7) for seed in (10, 11, 12)]
    baseline = [predictions(seed, 0.5) for seed in (0, 1)]
    found = over_videos(rows, baseline)["top1"]
    right = [np.mean([p.scores.argmax(1) == p.targets for p in model], axis=0) for model in (rows, baseline)]
    gains = right[0] - right[1]
    resampled = gains[np.random.default_rng(1).integers(0, 40, (100_000, 40))].mean(1)
    assert found.value == pytest.approx(gains.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))), abs=0.015)
    assert found.over == "40 videos"


def test_a_single_pair_is_what_compare_says() -> None:
    a, b = predictions(0, 0.5), predictions(1, 0.8)
    for one, other in zip(compare(a, b), compare_means([a], [b]), strict=True):
        assert (one.name, one.a, one.b) == (other.name, other.a, other.b)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


def test_other_videos_are_refused() -> None:
    with pytest.raises(UserError, match="not of the same videos"):
        over_videos([predictions(0, 0.5), predictions(1, 0.5, videos=39)], [predictions(2, 0.5)])
