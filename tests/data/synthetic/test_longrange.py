"""The built-in set of relations at known distances: balanced, out of reach of additive scores and of local features."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.preparing import digests
from nlnet import build_model
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.encode import encode_frames
from nlnet.data.shards.manifest import Manifest, manifest_name
from nlnet.data.synthetic import longrange
from nlnet.data.synthetic.longrange import COLORS, DEFAULT, FRAMES, LARGE, SIZE, Difficulty, corners, render, scene

LEVELS = len(DEFAULT.distances)
SCENES = [scene(k, LEVELS) for k in range(16 * LEVELS)]
CLIPS = {"train": 48, "val": 48}


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The share of (positive, negative) pairs in the right order, ties counted half: by enumeration."""
    difference = scores[truth][:, None] - scores[~truth][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("longrange") / "whole"
    longrange.build(out, CLIPS)
    return out


def manifest(folder: Path, split: str) -> Manifest:
    path = folder / manifest_name("longrange", split)
    return Manifest.from_json(path.read_text(), str(path))


def test_attributes_are_balanced_and_independent_at_every_level() -> None:
    for level in range(LEVELS):
        table = [what[:4] for what in SCENES if what.level == level]
        assert sorted(table) == sorted(itertools.product([False, True], repeat=4))
    assert all(count % len(SCENES) == 0 for count in longrange.SPLITS.values())


@pytest.mark.parametrize("other", [1, 2, 3])
def test_no_additive_score_finds_a_relation_at_any_distance(other: int) -> None:
    """f(anchor) + h(other) has an AUROC of exactly 0.5 whatever f and h: by enumeration of the orders of its values.

    With further attributes in the sum the means of positives and negatives are still equal.
    """
    rng = np.random.default_rng(0)
    for level in range(LEVELS):
        table = np.array([what[:4] for what in SCENES if what.level == level])
        truth = np.array([what.relations[other - 1] for what in SCENES if what.level == level])
        np.testing.assert_array_equal(truth, table[:, 0] == table[:, other])
        steps = itertools.product(range(-2, 3), repeat=2)
        assert {auroc(f * table[:, 0] + h * table[:, other], truth) for f, h in steps} == {0.5}
        assert auroc(1.0 * (table[:, 0] == table[:, other]), truth) == 1.0
        for weights in rng.normal(size=(50, 4)):
            scores = table @ weights
            assert scores[truth].mean() == pytest.approx(scores[~truth].mean(), abs=1e-12)


def test_labels_are_those_of_the_scenes(folder: Path) -> None:
    for split, count in CLIPS.items():
        found = manifest(folder, split)
        truth = np.zeros((count, len(found.classes)), bool)
        for row, sample in enumerate(found.samples):
            truth[row, [c for c, _, _ in sample.labels]] = True
        assert truth.tolist() == [[*what[:4], *what.relations] for what in SCENES]
        assert truth.mean(0).tolist() == [0.5] * 7
        levels = {
            name: tuple(k for k, what in enumerate(SCENES) if what.level == level)
            for level, name in enumerate(["18px_1f", "21px_2f", "24px_3f"])
        }
        assert found.subsets == levels


def test_places_are_apart_as_the_level_says_and_pairs_in_time_share_theirs() -> None:
    rng = np.random.default_rng(0)
    for (pixels, frames), _ in itertools.product(DEFAULT.distances, range(64)):
        places = corners(rng, pixels, frames)
        (t, y, x), half = places["anchor"], LARGE // 2
        assert all(half <= v < SIZE - half for place in places.values() for v in place[1:])
        assert all(0 <= place[0] < FRAMES for place in places.values())
        assert (places["space"][0], abs(places["space"][2] - x)) == (t, pixels)
        assert (abs(places["time"][0] - t), *places["time"][1:]) == (frames, y, x)
        assert (abs(places["both"][0] - t), abs(places["both"][2] - x)) == (frames, pixels)


def reach() -> tuple[int, int]:
    """How many frames and columns of the input one position of C2D's last feature map depends on, from gradients."""
    net = build_model("c2d_demo", num_classes=1).eval()
    clip = torch.rand(1, 3, 2 * FRAMES + 1, 64, 64, requires_grad=True)
    features = net.features(clip)
    features[0, :, FRAMES, features.shape[3] // 2, features.shape[4] // 2].sum().backward()
    assert clip.grad is not None
    seen = clip.grad[0].abs().sum(0) > 0
    frames, columns = (torch.nonzero(seen.any(dim)).flatten() for dim in ((1, 2), (0, 1)))  # type: ignore[call-overload]
    return int(frames.max() - frames.min() + 1), int(columns.max() - columns.min() + 1)


def test_no_feature_of_the_network_sees_both_glyphs_of_a_pair() -> None:
    frames, columns = reach()
    assert (frames, columns) == (1, 11)
    for pixels, apart in DEFAULT.distances:
        between = pixels - LARGE  # columns between the two glyphs, which a feature would have to span
        assert columns < between + 2
        assert apart >= frames


def test_attention_within_an_axis_relates_its_pair_alone() -> None:
    """Which glyph's place learns of the anchor: from the derivative through blocks that are not the identity."""
    rng = np.random.default_rng(1)
    sees = {}
    for axes in ("space", "time", "spacetime"):
        net = build_model("c2d_demo", nonlocal_blocks=2, num_classes=7, nonlocal_options={"axes": axes}).eval()
        for name, module in net.named_modules():
            if name.endswith("_nonlocal"):
                torch.nn.init.ones_(module.norm.weight)
        places = corners(rng, *DEFAULT.distances[-1])
        clip = torch.rand(1, 3, FRAMES, SIZE, SIZE, requires_grad=True)
        features = net.features(clip)
        t0, y0, x0 = places["anchor"]
        for other in ("space", "time", "both"):
            t, y, x = places[other]
            (gradient,) = torch.autograd.grad(features[0, :, t, y // 4, x // 4].sum(), clip, retain_graph=True)
            sees[axes, other] = bool(gradient[0, :, t0, y0, x0].abs().sum() > 0)
    assert {key for key, seen in sees.items() if seen} == {
        ("space", "space"), ("time", "time"), ("spacetime", "space"), ("spacetime", "time"), ("spacetime", "both"),
    }  # fmt: skip


def test_clips_are_functions_of_seed_split_and_index_and_show_what_they_say() -> None:
    """From the decoded bytes the size of every glyph is read back by the area of its color."""
    for index in range(len(SCENES)):
        drawn, labels = render("val", index)
        np.testing.assert_array_equal(drawn, render("val", index)[0])
        assert not np.array_equal(drawn, render("train", index)[0])
        clip = decode_clip(encode_frames(drawn, longrange.FPS), range(FRAMES)).astype(float)
        bright = clip.max(-1) > 130
        tone = clip / clip.max(-1, keepdims=True)
        areas = {}
        for name, (low, high) in COLORS.items():
            color = (np.array(low) + high) / 2
            areas[name] = (bright & (np.abs(tone - color / color.max()).max(-1) < 0.3)).sum()
        assert [area > 20 for area in areas.values()] == [*SCENES[index][:4]], (index, areas)
        holds = (*SCENES[index][:4], *SCENES[index].relations)
        assert [c for c, _, _ in labels] == [c for c, true in enumerate(holds) if true]


def test_two_builds_are_equal_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    longrange.build(tmp_path / "again", CLIPS)
    assert digests(tmp_path / "again") == digests(folder)


def test_difficulty_changes_the_clips_and_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    easy = render("val", 5)[0].astype(float)
    for harder in (Difficulty(distractors=4), Difficulty(noise=30.0), Difficulty(contrast=0.5)):
        assert np.abs(render("val", 5, harder)[0] - easy).mean() > 0.5
    for distances in (((26, 1),), ((6, 1),), ((18, 0),), ((18, 4),)):
        with pytest.raises(ValueError, match=r"a distance of .* pixels and . frames: needs 7 to 25 pixels and 1 to 3"):
            longrange.build(tmp_path / "no", {"train": 16}, Difficulty(distances))
    with pytest.raises(ValueError, match="50 clips for the split 'val': needs a positive multiple of 48"):
        longrange.build(tmp_path / "odd", {"val": 50})
