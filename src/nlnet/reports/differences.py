"""How far a row is from its baseline, with a paired bootstrap interval: over videos, or else over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nlnet.errors import UserError
from nlnet.evaluation.compare import compare_means, drawings
from nlnet.evaluation.predictions import FILE, Predictions, load
from nlnet.reports.sources.run_folders import Run

CONFIDENCE = 0.95
_SAMPLES = 2000
_REST = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Spread:
    """The mean of a metric over the seeds, and the standard deviation (over n - 1), None for a single one."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Change:
    """A difference of means, row - baseline, and the interval that holds it; None where there is none.

    `over` says what was drawn, such as "3 seeds" or "19,404 videos".
    """

    value: float
    low: float | None
    high: float | None
    over: str

    def times(self, factor: float) -> "Change":
        """In another unit."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        return Change(factor * self.value, low, high, self.over)


def spread(values: Sequence[float]) -> Spread | None:
    """The mean and the standard deviation of some values; None of none."""
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def over_seeds(row: Mapping[int | None, float], baseline: Mapping[int | None, float]) -> Change | None:
    """The mean of the differences of runs with the same seed, which are drawn with replacement; both by seed.

    Of one common seed there is no interval; without any it is the difference of the means. None where either is empty.
    """
    if not row or not baseline:
        return None
    common = sorted(row.keys() & baseline.keys(), key=str)
    if not common:
        return Change(float(np.mean([*row.values()]) - np.mean([*baseline.values()])), None, None, "no common seed")
    differences = np.array([row[seed] - baseline[seed] for seed in common])
    over = f"{len(common)} seed{'' if len(common) == 1 else 's'}"
    if len(common) == 1:
        return Change(float(differences[0]), None, None, over)
    drawn = np.concatenate([counts @ differences / len(common) for counts in drawings(len(common), _SAMPLES, seed=0)])
    low, high = np.quantile(drawn, (_REST, 1 - _REST))
    return Change(float(differences.mean()), float(low), float(high), over)


def over_videos(row: Sequence[Predictions], baseline: Sequence[Predictions]) -> dict[str, Change]:
    """By metric (top1, top5, mAP), from the scores of every run of both. Raises UserError where the videos differ."""
    found = compare_means(baseline, row, samples=_SAMPLES, confidence=CONFIDENCE)
    over = f"{len(row[0].keys):,} videos"
    return {each.name: Change(each.difference, each.low, each.high, over) for each in found if math.isfinite(each.low)}


def predictions_of(runs: Sequence[Run]) -> list[Predictions]:
    """The scores of every run, in their order; empty where one has none. Raises UserError for a damaged file."""
    files = [run.folder / FILE for run in runs]
    return [load(file) for file in files] if all(file.is_file() for file in files) else []


def changes_over_videos(row: Sequence[Run], baseline: Sequence[Predictions]) -> tuple[dict[str, Change], str]:
    """`over_videos` of a row's runs and the baseline's scores, if all have theirs; and what is wrong with the row's."""
    try:
        scores = predictions_of(row) if baseline else []
        return (over_videos(scores, baseline), "") if scores else ({}, "")
    except UserError as error:
        return {}, str(error).splitlines()[0]
