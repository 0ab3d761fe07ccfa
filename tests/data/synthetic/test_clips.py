"""The built-in clips: balanced by construction, readable after H.264, the same bytes each time, whole or absent."""

import itertools
import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.processes import context, run_process
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.encode import encode_frames
from nlnet.data.media.video import probe
from nlnet.data.shards.manifest import Manifest, manifest_name
from nlnet.data.synthetic import clips as synthetic
from nlnet.data.synthetic import make
from nlnet.errors import UserError

SMALL = {"train": 32, "test": 32}
TABLE = np.array([synthetic.scene(i) for i in range(synthetic.SCENES)])  # (32 scenes, 5 attributes)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "small"
    synthetic.build(folder, "charades", SMALL)
    return folder


def read_manifest(folder: Path, dataset: str, split: str) -> Manifest:
    path = folder / manifest_name(dataset, split)
    return Manifest.from_json(path.read_text(), str(path))


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The share of (positive, negative) pairs in the right order, ties counted half: by enumeration."""
    difference = scores[truth][:, None] - scores[~truth][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def labels_of(manifest: Manifest) -> np.ndarray:
    truth = np.zeros((len(manifest.samples), len(manifest.classes)), bool)
    for row, sample in enumerate(manifest.samples):
        truth[row, [c for c, _, _ in sample.labels]] = True
    return truth


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_attributes_are_balanced_and_jointly_independent() -> None:
    assert sorted(map(tuple, TABLE)) == sorted(itertools.product([False, True], repeat=5))
    assert all(counts % synthetic.SCENES == 0 for splits in synthetic.SPLITS.values() for counts in splits.values())
    assert all(splits[name] >= 1024 for splits in synthetic.SPLITS.values() for name in splits)


def test_prevalence_is_one_half(small: Path) -> None:
    for split, count in SMALL.items():
        manifest = read_manifest(small, "charades", split)
        truth = labels_of(manifest)
        assert (len(truth), manifest.task, manifest.dataset) == (count, "multilabel", "charades")
        assert truth.mean(0).tolist() == [0.5] * 7
        assert {name: len(members) for name, members in manifest.groups.items()} == {"local": 5, "relational": 2}
        left, right = truth[:, [0, 2]], truth[:, [1, 3]]
        np.testing.assert_array_equal(truth[:, 5:], left == right)


@pytest.mark.parametrize(("relation", "left", "right"), [("same_fill", 0, 1), ("same_shape", 2, 3)])
def test_no_additive_score_finds_a_relation(relation: str, left: int, right: int) -> None:
    """f(left attribute) + h(right attribute) has an AUROC of exactly 0.5, whatever f and h: by enumeration.

    Only the order of f(0) + h(0), f(0) + h(1), f(1) + h(0), f(1) + h(1) counts, and steps of -2 to 2 show every one.
    """
    truth = np.array([getattr(synthetic.scene(i), relation) for i in range(synthetic.SCENES)])
    steps = itertools.product(range(-2, 3), repeat=2)
    assert {auroc(f * TABLE[:, left] + h * TABLE[:, right], truth) for f, h in steps} == {0.5}
    assert auroc(1.0 * (TABLE[:, left] == TABLE[:, right]), truth) == 1.0


@pytest.mark.parametrize("relation", ["same_fill", "same_shape"])
def test_additive_scores_of_all_attributes_have_equal_means(relation: str) -> None:
    """f(all of the left) + h(all of the right) + k(bar): no gain on average, and at most 0.6 in order."""
    truth = np.array([getattr(synthetic.scene(i), relation) for i in range(synthetic.SCENES)])
    left, right, bar = TABLE[:, [0, 2]] @ [1, 2], TABLE[:, [1, 3]] @ [1, 2], TABLE[:, 4].astype(int)
    rng = np.random.default_rng(0)
    for _ in range(500):
        f, h, k = rng.normal(size=4), rng.normal(size=4), rng.normal(size=2)
        scores = f[left] + h[right] + k[bar]
        assert scores[truth].mean() == pytest.approx(scores[~truth].mean(), abs=1e-12)
        assert 0.4 <= auroc(scores, truth) <= 0.6


def test_the_multiclass_set_is_the_pair_of_relations(tmp_path: Path) -> None:
    synthetic.build(tmp_path / "k", "kinetics", {"val": 32})
    manifest = read_manifest(tmp_path / "k", "kinetics", "val")
    classes = [sample.labels[0][0] for sample in manifest.samples]
    assert (manifest.task, len(manifest.classes)) == ("multiclass", 4)
    assert all(sample.labels == ((c, 0.0, 1.0),) for c, sample in zip(classes, manifest.samples, strict=True))
    assert np.bincount(classes).tolist() == [8, 8, 8, 8]
    assert classes == [2 * s.same_fill + s.same_shape for s in map(synthetic.scene, range(32))]
    local = np.concatenate([TABLE, ~TABLE], axis=1).astype(int)
    for c in range(4):  # knowing any one attribute leaves every class equally likely
        assert set((np.array(classes) == c) @ local) == {4}


def test_intervals_are_where_the_glyphs_are() -> None:
    for index in range(32):
        _, labels = synthetic.render("train", index)
        spans = {c: (start, end) for c, start, end in labels}
        assert all(0.0 <= start < end <= 1.0 for start, end in spans.values())
        assert all(spans[c][1] == 0.5 for c in (0, 2) if c in spans)
        assert all(spans[c][0] == 0.5 for c in (1, 3) if c in spans)
        assert all(spans[c][0] < 0.2 and spans[c][1] > 0.8 for c in (4, 5, 6) if c in spans)


def test_clips_are_functions_of_seed_split_and_index() -> None:
    first, again = synthetic.render("train", 7)[0], synthetic.render("train", 7)[0]
    np.testing.assert_array_equal(first, again)
    for other in (synthetic.render("test", 7), synthetic.render("train", 39), synthetic.render("train", 7, seed=1)):
        assert np.abs(first.astype(int) - other[0]).mean() > 5


def test_the_left_glyph_stays_left_and_the_right_one_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven columns apart, so that no window of 11 x 11 pixels holds a part of both."""
    columns: dict[str, list[np.ndarray]] = {"left": [], "right": []}
    glyph = synthetic._glyph

    def watch(offsets: np.ndarray, filled: bool, square: bool) -> np.ndarray:
        coverage = glyph(offsets, filled, square)
        seen = np.flatnonzero(coverage.max((0, 1)))
        columns["left" if seen[0] < 16 else "right"].append(seen)
        return coverage

    monkeypatch.setattr(synthetic, "_glyph", watch)
    for index in range(128):
        synthetic.render("test", index)
    left, right = np.concatenate(columns["left"]), np.concatenate(columns["right"])
    assert len(columns["left"]) == len(columns["right"]) == 128
    assert (left.min(), left.max(), right.min(), right.max()) == (0, 10, 21, 31)


@cache
def templates() -> dict[tuple[bool, bool], np.ndarray]:
    """Every glyph (filled, square) at every place on a grid of half pixels: (places, 32, 11)."""
    centers = np.array(list(itertools.product(np.arange(5, 26.5, 0.5), np.arange(4, 6.5, 0.5))))[:, :, None, None]
    y, x = np.mgrid[0:32, 0:11].astype(float)
    offsets = np.abs([y - centers[:, 0], x - centers[:, 1]])
    kinds = itertools.product([False, True], repeat=2)
    return {(filled, square): synthetic._glyph(offsets, filled, square) for filled, square in kinds}


def read_glyph(frame_HWC: np.ndarray, columns: slice) -> tuple[bool, bool]:
    """(filled, square) as a person would read them: the template that explains the bright pixels best."""
    light = frame_HWC[:, columns].astype(float) @ [0.3, 0.6, 0.1]
    light = (light - np.median(light)) / np.ptp(light)
    errors = {kind: ((light - glyphs) ** 2).sum((1, 2)).min() for kind, glyphs in templates().items()}
    return min(errors, key=lambda kind: errors[kind])


def test_clips_survive_h264() -> None:
    """From the decoded bytes both attributes of both glyphs are read back, and the picture is near the drawn one."""
    for index in range(32):
        drawn, _ = synthetic.render("test", index)
        data = encode_frames(drawn, synthetic.FPS)
        info = probe(data)
        assert (info.frames, info.fps, info.width, info.height) == (8, 8.0, 32, 32)
        clip_THWC = decode_clip(data, range(8))
        assert 10 * np.log10(255**2 / np.mean((drawn.astype(float) - clip_THWC) ** 2)) > 28
        what = synthetic.scene(index)
        assert read_glyph(clip_THWC[2], slice(0, 11)) == (what.left_filled, what.left_square)
        assert read_glyph(clip_THWC[5], slice(21, 32)) == (what.right_filled, what.right_square)


def test_two_builds_are_equal_byte_for_byte(small: Path, tmp_path: Path) -> None:
    synthetic.build(tmp_path / "again", "charades", SMALL)
    assert contents(tmp_path / "again") == contents(small)
    synthetic.build(tmp_path / "other", "charades", {"test": 32}, seed=1)
    name = "charades-test-000000.tar"
    assert contents(tmp_path / "other")[name] != contents(small)[name]


def test_a_number_of_clips_that_cannot_be_balanced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="33 clips for the split 'train': needs a positive multiple of 32"):
        synthetic.build(tmp_path / "odd", "charades", {"train": 33})


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "SPLITS", {"charades": SMALL, "kinetics": {"train": 32, "val": 32}})


@pytest.mark.usefixtures("small_splits")
def test_ensure_makes_once(small: Path, tmp_path: Path) -> None:
    folder = make.ensure(tmp_path, "charades")
    assert folder == tmp_path / "synthetic" / "charades-v1"
    assert contents(folder) == contents(small)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert make.ensure(tmp_path, "charades") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    assert os.listdir(tmp_path / "synthetic") == [folder.name]


def test_ensure_names_what_it_can_make(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.dataset='charade'; nearest: charades"):
        make.ensure(tmp_path, "charade")
    (tmp_path / "synthetic").write_text("in the way")
    with pytest.raises(UserError, match=r"synthetic: cannot make the built-in clips there .*paths.data_dir"):
        make.ensure(tmp_path, "charades")


@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_build_leaves_nothing(
    stop: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "write_manifest", fail)
        with pytest.raises(stop):
            make.ensure(tmp_path, "kinetics")
    assert os.listdir(tmp_path / "synthetic") == []
    assert len(contents(make.ensure(tmp_path, "kinetics"))) == 4


def make_and_die(root: Path) -> None:
    """Killed after the first split's shards, where nothing can be tidied up."""
    synthetic.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    make_small(root)


def make_small(root: Path, barrier: Any = None) -> None:
    synthetic.SPLITS = {"charades": SMALL}
    if barrier:
        barrier.wait()
    make.ensure(root, "charades")


def test_killed_and_racing_processes(small: Path, tmp_path: Path) -> None:
    """A killed build is not taken for the data set; of three that race all succeed and one folder stands."""
    name = "charades-v1"
    assert run_process(make_and_die, tmp_path) == -signal.SIGKILL
    assert name not in os.listdir(tmp_path / "synthetic")
    barrier = context.Barrier(3)
    racing = [context.Process(target=make_small, args=(tmp_path, barrier)) for _ in range(3)]
    for process in racing:
        process.start()
    for process in racing:
        process.join()
    assert [process.exitcode for process in racing] == [0, 0, 0]
    assert contents(tmp_path / "synthetic" / name) == contents(small)
