"""Average precision and the Charades figures against NumPy references written from their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlnet.data.batches.sampling import active_classes
from nlnet.data.shards.manifest import Sample
from nlnet.errors import UserError
from nlnet.evaluation.average_precision import (
    all_videos_map,
    average_precision,
    charades_average_precisions,
    charades_map,
)
from nlnet.evaluation.metrics import compute_metrics
from nlnet.evaluation.video_metrics import VideoMetrics


def reference_ap(scores: np.ndarray, positives: np.ndarray) -> float:
    """sum over thresholds of (recall gained) x (precision there), by counting, threshold by threshold."""
    if positives.sum() == 0:
        return float("nan")
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        hits = positives[chosen].sum()
        total += (hits / positives.sum() - recall) * hits / chosen.sum()
        recall = hits / positives.sum()
    return total


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
def test_average_precision_equals_the_definition_with_ties(pairs):
    scores = np.array([score / 7 for score, _ in pairs])
    positives = np.array([positive for _, positive in pairs], dtype=float)
    ours = average_precision(torch.tensor(scores), torch.tensor(positives)).item()
    assert ours == pytest.approx(reference_ap(scores, positives), nan_ok=True, abs=1e-12)


def official_map(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The rule of Charades' own program, step by step: the mean, and the average precision of each class.

    A video without labels is not scored, which leaves minus infinity. A class' videos are ranked by a stable sort, and
    its average precision is the mean of the precisions at its positives.
    """
    ranked_by = np.where(labels.any(1, keepdims=True), scores, -np.inf)
    precisions = np.full(labels.shape[1], np.nan)
    for k in range(labels.shape[1]):
        order = sorted(range(len(labels)), key=lambda row: -ranked_by[row, k])  # Python's sort is stable
        right = wrong = 0
        total = 0.0
        for row in order:
            if labels[row, k]:
                right += 1
                total += right / (right + wrong)
            else:
                wrong += 1
        if right:
            precisions[k] = total / right
    return float(precisions[~np.isnan(precisions)].mean()), precisions


@pytest.mark.parametrize("seed", range(50))
def test_charades_map_is_that_of_the_official_rule(seed):
    """With videos without labels, classes that nobody has, and scores that are equal, as half precision makes them."""
    rng = np.random.default_rng(seed)
    videos, classes = int(rng.integers(5, 80)), int(rng.integers(2, 12))
    labels = (rng.random((videos, classes)) < rng.uniform(0.05, 0.4)).astype(np.float32)
    labels[rng.random(videos) < 0.25] = 0
    labels[:, rng.integers(classes)] = 0
    labels[rng.integers(videos), (np.flatnonzero(labels.sum(0) == 0)[0] + 1) % classes] = 1
    levels = int(rng.integers(2, 40))
    scores = (rng.integers(0, levels, (videos, classes)) / levels).astype(np.float32)
    assert (labels.sum(0) == 0).any()
    expected, per_class = official_map(scores, labels)
    found = charades_map(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found.item() == pytest.approx(expected, abs=1e-12)
    each = charades_average_precisions(torch.from_numpy(scores), torch.from_numpy(labels)).numpy()
    np.testing.assert_allclose(each, per_class, atol=1e-12, equal_nan=True)
    metrics, absent = compute_metrics("multilabel", torch.from_numpy(scores), torch.from_numpy(labels))
    assert metrics["mAP"].item() == pytest.approx(expected, abs=1e-12)
    assert absent == np.flatnonzero(np.isnan(per_class)).tolist()


def test_without_empty_videos_and_ties_both_figures_are_the_same():
    rng = np.random.default_rng(5)
    scores = torch.from_numpy(rng.permutation(200 * 7).reshape(200, 7) / 1400)
    targets = torch.from_numpy((rng.random((200, 7)) < 0.2).astype(np.float32))
    targets[:, 0] = 1 - targets[:, 1:].amax(1)
    assert charades_map(scores, targets).item() == pytest.approx(all_videos_map(scores, targets).item(), abs=1e-12)
    metrics, _ = compute_metrics("multilabel", scores, targets)
    assert "videos_without_label" not in metrics


def test_without_any_positive_there_is_no_figure():
    metrics, absent = compute_metrics("multilabel", torch.rand(4, 3), torch.zeros(4, 3))
    assert metrics["mAP"].isnan()
    assert absent == [0, 1, 2]
    assert metrics["videos_without_label"] == 4


def test_without_ties_it_is_the_mean_precision_at_the_positives():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    positives = torch.tensor([1.0, 0, 1, 0, 1])
    assert average_precision(scores, positives).item() == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3, abs=1e-12)


def test_charades_figures_from_intervals_to_map():
    """Training labels, test labels and the mAP, from the annotations on, with an absent class and an idle video."""
    rng = np.random.default_rng(3)
    classes, fps, frames = 6, 8.0, 80
    videos = []
    for k in range(40):
        labels = tuple(
            (int(c), float(start), float(start + length))
            for c, start, length in zip(
                rng.integers(0, classes - 1, 3), rng.uniform(0, 9, 3), rng.uniform(0.1, 3, 3), strict=True
            )
        )
        videos.append(Sample(f"v{k}", 0, 0, 0, 0, frames, fps, 32, 32, () if k % 10 == 0 else labels))
    clips = [np.arange(start, start + 16) for start in rng.integers(0, frames - 16, 40)]

    def hot(rows):
        out = np.zeros((len(rows), classes))
        for i, row in enumerate(rows):
            out[i, row] = 1
        return out

    train = hot([active_classes(video, clip) for video, clip in zip(videos, clips, strict=True)])
    test = hot([active_classes(video) for video in videos])
    for i, (video, clip) in enumerate(zip(videos, clips, strict=True)):
        first, last = clip[0] / fps, clip[-1] / fps
        for c in range(classes):
            spans = [(s, e) for label, s, e in video.labels if label == c]
            assert train[i, c] == float(any(max(s, first) <= min(e, last) for s, e in spans))
            assert test[i, c] == float(bool(spans))
    assert test[0].sum() == 0
    assert test[:, classes - 1].sum() == 0

    scores = rng.uniform(size=(40, classes))
    per_class = [reference_ap(scores[:, c], test[:, c]) for c in range(classes)]
    expected = np.mean(per_class[:-1])
    assert all_videos_map(torch.tensor(scores), torch.tensor(test)).item() == pytest.approx(expected, abs=1e-12)
    labeled = test.any(1)
    assert (~labeled).sum() == 4
    official = [reference_ap(scores[labeled, c], test[labeled, c]) for c in range(classes)]
    assert np.mean(official[:-1]) > expected + 1e-3

    metric = VideoMetrics("multilabel", {"first": [0, 1]})
    for part in (slice(25, 40), slice(0, 25)):
        metric.update(torch.arange(40)[part], torch.tensor(scores)[part], torch.tensor(test)[part])
    figures = metric.compute()
    assert figures["all_videos_mAP"].item() == pytest.approx(expected, abs=1e-6)
    assert figures["mAP"].item() == pytest.approx(np.mean(official[:-1]), abs=1e-6)
    assert figures["mAP_first"].item() == pytest.approx(np.mean(official[:2]), abs=1e-6)
    assert figures["videos_without_label"] == 4
    assert metric.absent_classes == [classes - 1]


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_a_subset_has_the_figures_of_its_videos_alone(kind):
    """In whatever order and parts they come, and where a video is missing."""
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.uniform(size=(60, 3)))
    targets = torch.tensor(
        rng.integers(0, 2, (60, 3)).astype(float) if kind == "multilabel" else rng.integers(0, 3, 60)
    )
    groups = {"first": [0], "rest": [1, 2]} if kind == "multilabel" else {}
    metric = VideoMetrics(kind, groups, None, {"even": range(0, 60, 2), "late": range(40, 60), "empty": []})
    order = torch.tensor(rng.permutation(60))
    order = order[order != 44]
    for part in (order[:13], order[13:]):
        metric.update(part, scores[part], targets[part])
    figures = metric.compute()
    for name, members in metric.subsets.items():
        rows = [k for k in members if k != 44]
        alone = VideoMetrics(kind, groups)
        if rows:
            alone.update(torch.tensor(rows), scores[rows], targets[rows])
            expected = {f"{key}_{name}": v for key, v in alone.compute().items() if key.startswith(("AUROC", "top1"))}
            assert len(expected) == (2 if kind == "multilabel" else 1)
            assert expected.items() <= figures.items()
    assert not any("empty" in key for key in figures)
    assert {key for key in metric.subset_names() if "empty" not in key} <= set(figures)


def test_top_k_counts_a_tie_as_wrong():
    metric = VideoMetrics("multiclass")
    scores = torch.tensor([[0.5, 0.3, 0.1, 0.05, 0.03, 0.02], [0.2] * 5 + [0.0], [0.3, 0.25, 0.2, 0.15, 0.1, 0.0]])
    metric.update(torch.arange(3), scores, torch.tensor([0, 0, 5]))
    figures = metric.compute()
    assert figures["top1"].item() == pytest.approx(1 / 3)
    assert figures["top5"].item() == pytest.approx(2 / 3)


def test_a_further_metric_that_is_no_function_is_refused_before_anything_is_computed():
    with pytest.raises(UserError, match=r"task\.metrics\.f1=1: expected a function of scores and targets"):
        VideoMetrics("multilabel", further={"f1": 1})
