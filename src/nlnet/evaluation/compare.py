"""Two models on the same videos: the difference of their metrics, with a paired bootstrap interval."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nlnet.errors import UserError
from nlnet.evaluation.metrics import Metrics, hits
from nlnet.evaluation.predictions import Predictions

_RESAMPLINGS = 64  # in memory at a time

Statistic = Callable[[np.ndarray], np.ndarray]
"""(S, N) how often each video was drawn in S resamplings -> (S,) the metric of each."""


@dataclass(frozen=True)
class Difference:
    """A metric of two models and of both together, their difference b - a, and the interval that holds it.

    `undefined` resamplings had no value, for they drew no positive; the interval is that of the others, and is not a
    number where there is none. `both` is None where two models' results cannot be put together.
    """

    name: str
    a: float
    b: float
    both: float | None
    difference: float
    low: float
    high: float
    undefined: int = 0


def compare(
    a: Predictions,
    b: Predictions,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    further: Metrics | None = None,
) -> list[Difference]:
    """top1 and top5, or mAP, of two models on the same videos, and b - a with its percentile bootstrap interval.

    The videos are drawn with replacement, the same for both models (a paired bootstrap). `both` is the metric of the
    mean of the two models' scores, each divided by its number of views where it is their sum.

    Args:
        samples: how many times the videos are drawn.
        confidence: the fraction of the resampled differences inside the interval.
        seed: of the drawing.
        further: further metrics by name, each computed anew for every resampling.

    Raises UserError where the videos, their classes or the kinds of task differ.
    """
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"samples={samples}, confidence={confidence}: at least 1, and between 0 and 1")
    b = _aligned(a, b)
    scores = {"a": a.scores, "b": b.scores, "both": _mean_scores(a) + _mean_scores(b)}
    statistics = {name: _statistics(a.kind, value, a.targets, further or {}) for name, value in scores.items()}
    everything = np.ones((1, len(a.keys)), np.int64)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in statistics["a"]}
    for counts_SN in drawings(len(a.keys), samples, seed):
        for name, values in drawn.items():
            values.append(statistics["b"][name](counts_SN) - statistics["a"][name](counts_SN))
    return [
        difference(
            name,
            {which: float(statistics[which][name](everything)[0]) for which in scores},
            np.concatenate(values),
            confidence,
        )
        for name, values in drawn.items()
    ]


def compare_means(
    a: Sequence[Predictions], b: Sequence[Predictions], *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> list[Difference]:
    """top1 and top5, or mAP, of several runs of each of two models, such as one a seed: mean(b) - mean(a).

    The videos are drawn with replacement, the same for all runs; the interval says how far the difference depends on
    the videos, not on the seeds. Raises UserError where the videos, their classes or the kinds of task differ.
    """
    first = a[0]
    models = [
        [_statistics(p.kind, p.scores, p.targets, {}) for p in (_aligned(first, q) for q in runs)] for runs in (a, b)
    ]

    def means(name: str, counts_SN: np.ndarray) -> list[np.ndarray]:
        return [np.mean([statistics[name](counts_SN) for statistics in runs], axis=0) for runs in models]

    everything, found = np.ones((1, len(first.keys)), np.int64), []
    for name in models[0][0]:
        own = [float(value[0]) for value in means(name, everything)]
        drawn = [means(name, counts_SN) for counts_SN in drawings(len(first.keys), samples, seed)]
        resampled = np.concatenate([of_b - of_a for of_a, of_b in drawn])
        found.append(difference(name, dict(zip("ab", own, strict=True)), resampled, confidence))
    return found


def drawings(count: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` things was drawn in `samples` resamplings with replacement: (S, count), S at a time."""
    rng = np.random.default_rng(seed)
    for first in range(0, samples, _RESAMPLINGS):
        yield rng.multinomial(count, np.full(count, 1 / count), min(_RESAMPLINGS, samples - first))


def difference(name: str, own: Mapping[str, float], drawn_S: np.ndarray, confidence: float) -> Difference:
    """The metric `name` of "a", "b" and perhaps "both", and the interval of the resampled differences b - a."""
    rest = (1 - confidence) / 2
    defined = drawn_S[~np.isnan(drawn_S)]
    low, high = np.quantile(defined, (rest, 1 - rest)) if len(defined) else (np.nan, np.nan)
    return Difference(
        name,
        own["a"],
        own["b"],
        own.get("both"),
        difference=own["b"] - own["a"],
        low=float(low),
        high=float(high),
        undefined=len(drawn_S) - len(defined),
    )


def _mean_scores(predictions: Predictions) -> np.ndarray:
    views = predictions.views.shape[1] if predictions.kind == "multiclass" else 1
    return predictions.scores.astype(np.float64) / views


def _aligned(a: Predictions, b: Predictions) -> Predictions:
    """`b` in the order of `a`."""
    if a.kind != b.kind or a.classes != b.classes:
        what = f"{a.kind} of {len(a.classes)} classes", f"{b.kind} of {len(b.classes)} classes"
        raise UserError(f"A is {what[0]}, B {what[1]}, or their classes' names differ; compare models of one data set")
    only_a, only_b = sorted({*a.keys} - {*b.keys}), sorted({*b.keys} - {*a.keys})
    if only_a or only_b or len(a.keys) != len(b.keys):
        raise UserError(
            f"A and B are not of the same videos: {_shown(only_a)} only in A, {_shown(only_b)} only in B;"
            " evaluate both on the same shards"
        )
    row_of = {key: row for row, key in enumerate(b.keys)}
    rows = [row_of[key] for key in a.keys]
    if not np.array_equal(b.targets[rows], a.targets):
        raise UserError("A and B name different targets for the same videos; evaluate both on the same shards")
    return Predictions(b.kind, b.classes, a.keys, b.targets[rows], b.views[rows], b.protocol, b.groups)


def _shown(keys: Sequence[str]) -> str:
    named = f" ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else ""
    return f"{len(keys)}{named}"


def _statistics(kind: str, scores_NK: np.ndarray, targets: np.ndarray, further: Metrics) -> Mapping[str, Statistic]:
    others = {name: _resampled_statistic(metric, scores_NK, targets) for name, metric in further.items()}
    if kind == "multilabel":
        return {"mAP": map_statistic(scores_NK, targets)} | others
    found = hits(torch.from_numpy(scores_NK), torch.from_numpy(targets))
    return {f"top{k}": _mean_statistic(value.numpy()) for k, value in found.items()} | others


def _resampled_statistic(
    metric: Callable[[Tensor, Tensor], Tensor | float], scores_NK: np.ndarray, targets: np.ndarray
) -> Statistic:
    """Of a metric of which nothing is known: computed on the videos of each resampling, repeated as drawn."""
    scores, all_targets = torch.from_numpy(scores_NK), torch.from_numpy(targets)

    def of_each(counts_SN: np.ndarray) -> np.ndarray:
        drawn = [torch.from_numpy(np.repeat(np.arange(len(counts_N)), counts_N)) for counts_N in counts_SN]
        return np.array([float(metric(scores[rows], all_targets[rows])) for rows in drawn])

    return of_each


def _mean_statistic(hits_N: np.ndarray) -> Statistic:
    return lambda counts_SN: counts_SN @ hits_N.astype(np.float64) / counts_SN.sum(1)


def map_statistic(scores_NK: np.ndarray, targets_NK: np.ndarray) -> Statistic:
    """`nlnet.evaluation.average_precision.charades_map`, with videos that count several times; nan without a positive.

    Ranks are found once. A positive that was drawn w times takes the ranks s + 1 ... s + w, after the s places and h
    positives of the videos before it, and adds sum_{i=1..w} (h + i) / (s + i) = w - (s - h) (H(s + w) - H(s)) to the
    precisions, H being the harmonic numbers.
    """
    labeled = np.flatnonzero((targets_NK != 0).any(1))
    harmonic = np.concatenate([[0.0], (1 / np.arange(1, len(targets_NK) + 1)).cumsum()])
    classes = []
    for scores_N, labels_N in zip(scores_NK[labeled].T, targets_NK[labeled].T, strict=True):
        if labels_N.any():
            order = np.argsort(-scores_N, kind="stable")
            classes.append((labeled[order], np.flatnonzero(labels_N[order])))

    def mean_average_precision(counts_SN: np.ndarray) -> np.ndarray:
        counts_NS = np.ascontiguousarray(counts_SN.T, dtype=np.int32)
        precisions, drawn_classes = np.zeros(len(counts_SN)), np.zeros(len(counts_SN))
        for order, positives in classes:
            weights_NS = counts_NS[order]
            gains = weights_NS[positives]
            before = weights_NS.cumsum(0)[positives] - gains
            found = gains.cumsum(0) - gains
            total = gains.sum(0)
            sums = (gains - (before - found) * (harmonic[before + gains] - harmonic[before])).sum(0)
            precisions += np.where(total > 0, sums / np.maximum(total, 1), 0)
            drawn_classes += total > 0
        return np.where(drawn_classes > 0, precisions / np.maximum(drawn_classes, 1), np.nan)

    return mean_average_precision
