"""predictions.parquet: what it holds, and that figures can be computed from it alone."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nlnet.errors import UserError
from nlnet.evaluation.average_precision import charades_map
from nlnet.evaluation.predictions import FILE, Predictions, load

N, V, K = 700, 6, 9  # more videos than are written at a time


def made(kind, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, K, N) if kind == "multiclass" else (rng.random((N, K)) < 0.2).astype(np.float32)
    views = rng.random((N, V, K), dtype=np.float32)
    keys = tuple(f"video{k:04d}" for k in range(N))
    return Predictions(kind, tuple("abcdefghi"), keys, targets, views, {"name": "30view", "clips": 2}, {"g": [0, 1]})


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_a_file_gives_back_every_bit(kind, tmp_path):
    written = made(kind)
    written.save(tmp_path / FILE)
    read = load(tmp_path)
    assert (read.kind, read.classes, read.keys) == (written.kind, written.classes, written.keys)
    assert (read.protocol, read.groups) == ({"name": "30view", "clips": 2}, {"g": [0, 1]})
    assert read.targets.dtype == written.targets.dtype
    assert np.array_equal(read.targets, written.targets)
    assert np.array_equal(read.views, written.views)
    figures, again = written.metrics()[0], read.metrics()[0]
    assert {name: float(value) for name, value in again.items()} == {n: float(v) for n, v in figures.items()}


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_combined_scores_can_be_computed_from_the_views_in_the_file(kind, tmp_path):
    made(kind).save(tmp_path / FILE)
    rows = pq.read_table(tmp_path / FILE).to_pylist()
    assert len(rows) == N
    assert json.loads(pq.read_schema(tmp_path / FILE).metadata[b"nlnet"])["kind"] == kind
    for row in rows:
        views = np.array(row["views"])
        assert views.shape == (V, K)
        combined = views.max(0) if kind == "multilabel" else views.sum(0).astype(np.float32)
        assert np.array_equal(np.array(row["scores"]), combined)


def test_clip1_clip_and_video_are_the_official_accuracies():
    """Counted as the official test does, entry by entry."""
    predictions = made("multiclass", 1)
    first = each = video = fifth = 0
    for target, views in zip(predictions.targets, predictions.views, strict=True):
        total = np.zeros(K)
        for number, scores in enumerate(views):
            total += scores
            each += int(scores.argmax() == target)
            first += int(number == 0 and scores.argmax() == target)
        video += int(total.argmax() == target)
        fifth += int(target in np.argsort(total)[::-1][:5])
    figures, absent = predictions.metrics()
    assert absent == []
    assert float(figures["clip1_top1"]) == pytest.approx(first / N, abs=1e-12)
    assert float(figures["clip_top1"]) == pytest.approx(each / (N * V), abs=1e-12)
    assert float(figures["top1"]) == pytest.approx(video / N, abs=1e-12)
    assert float(figures["top5"]) == pytest.approx(fifth / N, abs=1e-12)
    assert float(figures["videos"]) == N


def test_charades_takes_the_maximum_over_views():
    predictions = made("multilabel", 2)
    targets = torch.from_numpy(predictions.targets)
    figures, _ = predictions.metrics()
    assert figures["mAP"] == charades_map(torch.from_numpy(predictions.views.max(1)), targets)
    assert figures["clip1_mAP"] == charades_map(torch.from_numpy(predictions.views[:, 0].copy()), targets)
    samples = torch.from_numpy(predictions.views.reshape(N * V, K))
    assert figures["clip_mAP"] == charades_map(samples, targets.repeat_interleave(V, 0))


def test_scores_that_are_not_a_number_are_no_hits():
    predictions = made("multiclass", 3)
    predictions.views[:] = np.nan
    assert float(predictions.metrics()[0]["top5"]) == 0


def test_other_files_are_refused_in_words(tmp_path):
    with pytest.raises(UserError, match=r"predictions\.parquet: there is no such file"):
        load(tmp_path)
    (tmp_path / FILE).write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"not predictions that src/eval\.py wrote"):
        load(tmp_path)
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / FILE)
    with pytest.raises(UserError, match=r"not predictions that src/eval\.py wrote"):
        load(tmp_path / FILE)


ABOUT = {"format": 1, "kind": "multiclass", "classes": list("abcdefghi"), "groups": {"g": [0, 1]}, "protocol": {}}


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name in ABOUT for value in (None, 7, "x", [[1]], {"a": {"b": [{}]}}, [{}], {"g": [[]]})),
        {"classes": list("abc")},
        {"groups": {"g": [-1]}},
        {"groups": {"g": [9]}},
    ],
)
def test_metadata_of_any_shape_are_refused_in_one_line(change, tmp_path):
    made("multiclass").save(tmp_path / FILE)
    table = pq.read_table(tmp_path / FILE)
    pq.write_table(table.replace_schema_metadata({"nlnet": json.dumps(ABOUT | change)}), tmp_path / FILE)
    if change in ({"protocol": {"a": {"b": [{}]}}}, {"protocol": {"g": [[]]}}):  # plain values of any kind
        assert load(tmp_path).protocol == change["protocol"]
        return
    with pytest.raises(UserError) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


def test_scores_that_are_not_finite_are_no_predictions(tmp_path):
    predictions = made("multiclass")
    predictions.views[5, 2, 3] = np.nan
    predictions.save(tmp_path / FILE)
    with pytest.raises(UserError, match=r"the scores of 1 videos are not finite, and no metric .*: video0005; look at"):
        load(tmp_path)
