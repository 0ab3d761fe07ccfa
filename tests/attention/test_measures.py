"""The numbers of a map against sums over all its pairs, and for maps whose numbers are known."""

import itertools

import numpy as np
import pytest
import torch

from nlnet import NonLocalBlock
from nlnet.attention.maps import BlockMap, block_map
from nlnet.attention.measures import measure
from nlnet.attention.places import key_places, position_places


def known(rows: np.ndarray, size=(2, 2, 2), meets="all") -> BlockMap:
    """A map of these weights, without sub-sampling."""
    keys = {"all": size, "frame": (1, *size[1:]), "location": (size[0], 1, 1)}[meets]
    low, high = np.zeros(len(rows), np.float32), rows.max(1).astype(np.float32)
    levels = np.rint(rows / rows.max(1, keepdims=True) * 255).astype(np.uint8)
    best = np.argsort(-rows, axis=1, kind="stable")[:, :1]
    return BlockMap(
        "b", "dot_product", size, keys, meets, (1, 1, 1), np.arange(len(rows)), levels, low, high, best,
        np.take_along_axis(rows, best, 1).astype(np.float32),
    )  # fmt: skip


def test_a_block_that_looks_everywhere_alike():
    found = measure(known(np.full((8, 8), 0.125)))
    assert (found.entropy, found.same_frame, found.query_dependence) == pytest.approx((1, 0.5, 0), abs=1e-9)
    assert found.distance_time == pytest.approx(0.25)  # 0 or half of the clip
    assert found.distance_space == pytest.approx((0 + 0.5 + 0.5 + np.sqrt(0.5)) / 4)


def test_a_block_that_looks_at_itself():
    found = measure(known(np.eye(8)))
    assert (found.entropy, found.same_frame, found.distance_space, found.distance_time) == (0, 1, 0, 0)
    assert found.query_dependence == pytest.approx((1 - 1 / 8) / 2)  # all pairs are orthogonal but each with itself


def test_a_block_whose_positions_all_look_at_one():
    rows = np.zeros((8, 8))
    rows[:, 5] = 0.7
    found = measure(known(rows))
    assert (found.entropy, found.query_dependence) == pytest.approx((0, 0), abs=1e-12)
    assert found.same_frame == 0.5


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product"])
@pytest.mark.parametrize("options", [{}, {"axes": "space"}, {"axes": "time"}, {"temporal_group": 2}])
def test_against_all_pairs(pairwise, options):
    torch.manual_seed(0)
    block = NonLocalBlock(6, 3, pairwise, **options).eval()
    torch.nn.init.normal_(block.theta.weight)
    torch.nn.init.normal_(block.phi.weight)
    made = block_map("b", block, torch.randn(1, 6, 4, 4, 6))
    found = measure(made)
    a = np.abs(np.stack([made.row(i) for i in range(len(made.rows))]).astype(np.float64))
    a /= a.sum(1, keepdims=True)
    places = position_places(made)
    space = time = same = entropy = 0.0
    for i in range(len(a)):
        for j, key in enumerate(key_places(made, i)):
            space += a[i, j] * np.linalg.norm(key[1:] - places[i, 1:])
            time += a[i, j] * abs(key[0] - places[i, 0])
            same += a[i, j] * (int(key[0] * 4) == int(places[i, 0] * 4))
            entropy -= a[i, j] * np.log(a[i, j]) / np.log(a.shape[1]) if a[i, j] else 0
    cosines = [
        a[i] @ a[k] / np.linalg.norm(a[i]) / np.linalg.norm(a[k]) for i, k in itertools.product(range(96), repeat=2)
    ]
    sums = (found.distance_space, found.distance_time, found.same_frame, found.entropy)
    assert np.array(sums) * 96 == pytest.approx([space, time, same, entropy], rel=1e-9)
    assert found.query_dependence == pytest.approx((1 - np.mean(cosines)) / 2, rel=1e-9, abs=1e-12)
