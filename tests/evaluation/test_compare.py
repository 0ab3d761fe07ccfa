"""Paired bootstrap: against plain statistics, and against doing it video by video."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from nlnet.cli.compare import main
from nlnet.errors import UserError
from nlnet.evaluation.average_precision import charades_map
from nlnet.evaluation.compare import compare, map_statistic
from nlnet.evaluation.predictions import FILE, Predictions


def made(kind, seed, n=400, classes=12, strength=0.5, views=1):
    """Scores that know something of the target."""
    rng = np.random.default_rng(100)
    targets = rng.integers(0, classes, n) if kind == "multiclass" else (rng.random((n, classes)) < 0.15) * 1.0
    shown = np.eye(classes)[targets] if kind == "multiclass" else targets
    noise = np.random.default_rng(seed).random((n, views, classes))
    scores = (strength * shown[:, None] + noise).astype(np.float32)
    return Predictions(kind, tuple(map(str, range(classes))), tuple(f"v{k}" for k in range(n)), targets.astype(
        np.int64 if kind == "multiclass" else np.float32), scores)  # fmt: skip


def test_counts_weigh_average_precision_like_repeated_videos():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 5)).astype(np.float32)  # with many ties
    targets = (rng.random((40, 5)) < 0.2).astype(np.float32)
    targets[:, 4] = 0  # a class that nobody has
    targets[:, 3], targets[7, 3] = 0, 1  # and one that some drawings miss
    counts = rng.multinomial(40, np.full(40, 1 / 40), 20)
    assert (counts[:, 7] == 0).any()
    found = map_statistic(scores, targets)(counts)
    for value, count in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(40), count)
        expected = charades_map(torch.from_numpy(scores[rows]), torch.from_numpy(targets[rows]))
        assert value == pytest.approx(float(expected), abs=1e-12)


def few(positives, seed):
    """40 videos of which so many have a label."""
    predictions = made("multilabel", seed, n=40, strength=2)
    targets = np.zeros_like(predictions.targets)
    targets[range(positives), range(positives)] = 1
    return replace(predictions, targets=targets)


def test_resamplings_without_a_positive_are_left_out_and_counted():
    """One video with a label of 40: (1 - 1/40)^40 = 36 % of the drawings miss it."""
    a, b = few(1, 1), few(1, 2)
    a = replace(a, views=np.where(np.arange(40)[:, None, None] == 0, 0, a.views).astype(np.float32))
    row = compare(a, b, samples=1000)[0]
    assert row.name == "mAP"
    assert row.a == 1  # among the videos with a label, of which there is one
    assert row.undefined == pytest.approx(363, abs=60)
    assert (row.low, row.high) == (0, 0)
    two = replace(a, targets=few(2, 1).targets), replace(b, targets=few(2, 1).targets)
    row = compare(*two, samples=1000)[0]
    assert 0 < row.undefined < 250
    assert row.low <= row.difference <= row.high
    assert np.isfinite([row.difference, row.low, row.high]).all()


def test_the_command_says_what_has_no_value(tmp_path, command):
    for name, positives in (("none", 0), ("one", 1)):
        for which, seed in (("a", 1), ("b", 2)):
            (tmp_path / name / which).mkdir(parents=True)
            few(positives, seed).save(tmp_path / name / which / FILE)
    code, out, _ = command(main, str(tmp_path / "none/a"), str(tmp_path / "none/b"), "--samples", "50")
    assert code == 0
    assert out.splitlines()[-1].endswith("no value: no positive among the samples")
    _, out, _ = command(main, str(tmp_path / "none/a"), str(tmp_path / "none/b"), "--samples", "50", "--json")
    assert json.loads(out)["mAP"] == {
        "name": "mAP", "a": None, "b": None, "both": None, "difference": None, "low": None, "high": None,
        "undefined": 50,
    }  # fmt: skip
    _, out, _ = command(main, str(tmp_path / "one/a"), str(tmp_path / "one/b"), "--samples", "50")
    assert "resamplings without a positive are left out)" in out
    _, out, _ = command(main, str(tmp_path / "one/a"), str(tmp_path / "one/b"), "--samples", "1", "--seed", "0")
    assert "nan" not in out


def test_map_of_a_comparison_is_that_of_the_evaluation():
    predictions = made("multilabel", 1)
    predictions.targets[:50] = 0
    figures, _ = predictions.metrics()
    row = compare(predictions, predictions, samples=2)[0]
    assert row.a == pytest.approx(float(figures["mAP"]), abs=1e-12)
    assert float(figures["mAP"]) > float(figures["all_videos_mAP"])


def test_the_interval_of_an_accuracy_is_that_of_the_paired_normal_distribution():
    a, b = made("multiclass", 1, n=2000), made("multiclass", 2, n=2000, strength=0.6)
    row = compare(a, b, samples=4000)[0]
    hits = [predictions.scores.argmax(1) == predictions.targets for predictions in (a, b)]
    gains = hits[1].astype(float) - hits[0]
    spread = 1.96 * gains.std() / np.sqrt(len(gains))
    assert (row.name, row.a, row.b) == ("top1", hits[0].mean(), pytest.approx(hits[1].mean()))
    assert row.difference == pytest.approx(gains.mean(), abs=1e-12)
    assert row.low == pytest.approx(gains.mean() - spread, abs=0.1 * spread)
    assert row.high == pytest.approx(gains.mean() + spread, abs=0.1 * spread)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_a_model_is_as_good_as_itself_in_any_order_and_a_seed_repeats(kind):
    a, b = made(kind, 1), made(kind, 2)
    order = np.random.default_rng(3).permutation(len(a.keys))
    turned = replace(b, keys=tuple(b.keys[k] for k in order), targets=b.targets[order], views=b.views[order])
    assert compare(a, b, samples=50) == compare(a, turned, samples=50)
    assert compare(a, b, samples=50) != compare(a, b, samples=50, seed=1)
    assert all((row.difference, row.low, row.high) == (0, 0, 0) for row in compare(a, a, samples=50))


def test_models_with_unequal_numbers_of_views_count_the_same_when_fused():
    one, many = made("multiclass", 1), made("multiclass", 1)
    many = replace(many, views=np.repeat(many.views, 30, 1))
    row = compare(one, many, samples=5)[0]
    assert row.a == row.b == row.both
    noisy = replace(many, views=np.repeat(made("multiclass", 9).views, 30, 1))
    halves = compare(one, noisy, samples=5)[0]
    mean = one.scores.astype(float) + noisy.scores.astype(float) / 30
    assert halves.both == (mean.argmax(1) == one.targets).mean()


def test_the_command(tmp_path, command):
    for name, seed, strength in (("a", 1, 0.4), ("b", 2, 0.8)):
        (tmp_path / name).mkdir()
        made("multilabel", seed, strength=strength).save(tmp_path / name / FILE)
    code, out, _ = command(main, str(tmp_path / "a"), str(tmp_path / "b" / FILE), "--samples", "200")
    assert code == 0
    assert "400 videos, 200 resamplings" in out
    assert "B is better" in out.splitlines()[-1]
    code, again, _ = command(main, str(tmp_path / "a"), str(tmp_path / "b"), "--samples", "200", "--json")
    assert code == 0
    assert '"videos": 400' in again
    code, _, err = command(main, str(tmp_path / "a"), str(tmp_path / "b"), "--confidence", "95")
    assert code == 1
    assert "--confidence 95" in err


def test_other_videos_classes_or_targets_are_refused():
    a = made("multiclass", 1)
    with pytest.raises(UserError, match=r"1 \(v0\) only in A, 0 only in B"):
        compare(a, replace(a, keys=a.keys[1:], targets=a.targets[1:], views=a.views[1:]))
    with pytest.raises(UserError, match="multiclass of 12 classes, B multilabel"):
        compare(a, made("multilabel", 1))
    with pytest.raises(UserError, match="different targets"):
        compare(a, replace(a, targets=(a.targets + 1) % 12))
