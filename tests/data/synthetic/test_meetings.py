"""The built-in discs that meet: balanced, told by nothing but their ways, with boxes that say where they are."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.preparing import digests
from helpers.region_oracle import neighbors
from nlnet import build_model
from nlnet.data.synthetic import meetings
from nlnet.data.synthetic.meetings import FRAMES, SCENES, SIZE, render, scene

ALL = [scene(k) for k in range(SCENES)]


def test_scenes_are_balanced() -> None:
    assert len(set(ALL)) == SCENES == 48
    assert Counter(what.label for what in ALL) == {0: 12, 1: 24, 2: 12}
    for side in range(4):
        assert Counter(what.label for what in ALL if what.side == side) == {0: 3, 1: 6, 2: 3}
    for warm in {what.warm for what in ALL}:
        assert Counter(what.label for what in ALL if what.warm == warm)[1] == 2
    assert all(count % SCENES == 0 for splits in meetings.SPLITS.values() for count in splits.values())


def test_how_many_are_warm_is_right_in_half_of_the_scenes_at_most() -> None:
    """What a pooled network can count, and the direction of the meeting beside it."""
    cells = Counter(((sum(what.warm), what.side % 2), what.label) for what in ALL)
    best = {cell: max(count for (other, _), count in cells.items() if other == cell) for cell, _ in cells}
    assert sum(best.values()) == SCENES / 2


def test_boxes_hold_the_discs_and_their_order_says_nothing() -> None:
    orders = set()
    for k in range(0, SCENES, 5):
        frames, boxes = render("train", k)
        assert boxes.shape == (FRAMES, 4, 4)
        ground = np.median(frames[0].reshape(-1, 3), 0)
        for frame, of_frame in zip(frames, boxes, strict=True):
            bright = np.abs(frame.astype(float) - ground).max(2) > 60
            covered = np.zeros((SIZE, SIZE), bool)
            for x1, y1, x2, y2 in of_frame.round().astype(int):
                covered[y1:y2, x1:x2] = True
                assert bright[y1:y2, x1:x2].sum() > 15
            assert not bright[~covered].any()
        graph = neighbors(boxes / SIZE, -1)[0]  # of the second frame: each box meets one of the first, its own
        assert ((graph > 0).sum(1) == 1).all()
        orders.add(tuple(graph.argmax(1)))
    assert len(orders) > 3


def test_those_that_meet_overlap_and_no_others() -> None:
    for k in range(SCENES):
        _, boxes = render("val", k)
        shared = [
            [sum(shared_area(frame[a], frame[b]) > 0 for b in range(4) if b != a) for a in range(4)] for frame in boxes
        ]
        assert [sorted(of_frame) for of_frame in shared] == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def shared_area(a: np.ndarray, b: np.ndarray) -> float:
    """The area that two boxes share."""
    return float(max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0))


def test_no_feature_sees_two_discs_of_the_first_frame() -> None:
    """The demo network's features see 11 pixels of a frame, and the discs' edges are farther apart."""
    net = build_model("c2d_demo", num_classes=3).eval()
    clip = torch.zeros(1, 3, FRAMES, SIZE, SIZE, requires_grad=True)
    feature = net.features(clip + torch.rand(1, 3, FRAMES, SIZE, SIZE))[0, :, 0, 5, 5].sum()
    (seen,) = torch.autograd.grad(feature, clip)
    where = torch.nonzero(seen.abs().sum((0, 1)))
    span = where.amax(0) - where.amin(0) + 1
    assert span[0] == 1
    assert span[1:].max() < meetings.APART - 2 * meetings.RADIUS - 1


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        meetings.build(tmp_path / name, "something", {"train": 48})
    assert digests(tmp_path / "one") == digests(tmp_path / "other")
    with pytest.raises(ValueError, match="needs a positive multiple of 48"):
        meetings.build(tmp_path / "third", "something", {"train": 40})
