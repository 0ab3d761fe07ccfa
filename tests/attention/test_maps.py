"""Stored rows against the whole map in float64: for every function, sub-sampling, and region."""

import itertools
import math

import numpy as np
import pytest
import torch

from nlnet import NonLocalBlock
from nlnet.attention.deletion import key_map, keys_of
from nlnet.attention.maps import block_map
from nlnet.attention.places import key_places, position_places

PAIRWISE = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
REGIONS = ({}, {"axes": "space"}, {"axes": "time"}, {"temporal_group": 2})
CASES = [
    (pairwise, {"subsample": subsample, "subsample_order": order} | region)
    for pairwise, (subsample, order), region in itertools.product(
        PAIRWISE, ((False, "before"), (True, "before"), (True, "after")), REGIONS
    )
]


def make(pairwise: str, options: dict, dims: int = 3) -> NonLocalBlock:
    torch.manual_seed(0)
    block = NonLocalBlock(6, dims, pairwise, init="msra", **options)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return block.eval()


def whole_map(block: NonLocalBlock, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) of all keys, and whether a position meets a key, from the equations alone."""
    block, x = block.double(), x.double()
    pool = torch.nn.MaxPool3d((1, 2, 2), ceil_mode=False)
    pools = block.subsample
    source = pool(x) if pools and block.subsample_order == "before" else x

    def flat(t: torch.Tensor) -> torch.Tensor:
        return t[0].flatten(1).T

    if block.pairwise == "gaussian":
        theta, phi = x, pool(x) if pools else x
    else:
        theta, phi = block.theta(x), block.phi(source)
        phi = pool(phi) if pools and block.subsample_order == "after" else phi
    size, keys = x.shape[2:], phi.shape[2:]
    theta, phi = flat(theta), flat(phi)
    if block.pairwise == "concatenation":
        w = block.concat_project.weight.flatten()
        d = block.inner_channels
        f = torch.relu((theta @ w[:d])[:, None] + (phi @ w[d:])[None])
    else:
        f = theta @ phi.T * block.scale
    t, h, w_ = (torch.from_numpy(a.ravel()) for a in np.indices(size))
    kt, kh, kw = (torch.from_numpy(a.ravel()) for a in np.indices(keys))
    meets = torch.ones(len(t), len(kt), dtype=torch.bool)
    if block.axes == "space":
        meets = t[:, None] == kt
    elif block.axes == "time":
        meets = (h[:, None] == kh) & (w_[:, None] == kw)
    elif block.temporal_group:
        meets = t[:, None] // block.temporal_group == kt // block.temporal_group
    f = f.masked_fill(~meets, -math.inf).softmax(1) if "gaussian" in block.pairwise else f / meets.sum(1, keepdim=True)
    return f.detach().numpy(), meets.numpy()


@pytest.mark.parametrize(("pairwise", "options"), CASES)
def test_rows_are_those_of_the_map_to_half_a_step(pairwise, options):
    block, x = make(pairwise, options), torch.randn(1, 6, 4, 5, 6)
    found = block_map("b", block, x, every=True)
    assert (found.size, found.keys, found.step) == ((4, 5, 6), block.key_size((4, 5, 6)), (1, 1, 1))
    f, meets = whole_map(make(pairwise, options), x)
    assert len(found.positions) == len(f) == 120
    places = position_places(found)
    for i in range(120):
        keys = keys_of(block, x, i)
        assert sorted(keys) == np.flatnonzero(meets[i]).tolist()
        expected = f[i, keys]
        step = (found.high[i] - found.low[i]) / 255
        assert np.abs(found.row(i) - expected).max() <= 0.5 * step + 1e-5 * np.abs(expected).max()
        assert found.values[i] == pytest.approx(np.sort(expected)[::-1][: found.links.shape[1]], rel=1e-4, abs=1e-6)
        assert expected[found.links[i]] == pytest.approx(found.values[i], rel=1e-4, abs=1e-6)
        # and where these keys are in the clip
        shape = key_map(block, x)
        middles = (np.stack(np.unravel_index(keys, shape), 1) + 0.5) / np.array(shape)
        assert key_places(found, i) == pytest.approx(middles)
        assert places[i] == pytest.approx((np.array(np.unravel_index(i, found.size)) + 0.5) / found.size)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_an_image_is_a_clip_of_one_frame(pairwise):
    block, x = make(pairwise, {}, dims=2), torch.randn(1, 6, 6, 8)
    found = block_map("b", block, x)
    assert (found.size, found.keys) == ((1, 6, 8), (1, 3, 4))
    exact = block.attention(x, range(48))[0].detach().numpy()
    for i in range(48):
        assert np.abs(found.row(i) - exact[i]).max() <= 0.5001 * (found.high[i] - found.low[i]) / 255 + 1e-7


@pytest.mark.parametrize("most", [200, 3000, 20_000])
def test_a_grid_gets_wider_until_its_rows_fit(most):
    block, x = make("embedded_gaussian", {}), torch.randn(1, 6, 6, 10, 12)
    found = block_map("b", block, x, most_bytes=most)
    assert found.rows.nbytes <= most
    exact = block.attention(x, found.positions.tolist())[0].detach().numpy()
    for number, i in enumerate(found.positions):
        assert found.nearest(*np.unravel_index(int(i), found.size)) == number
        assert np.abs(found.row(number) - exact[number]).max() <= 0.5001 * (found.high - found.low)[number] / 255 + 1e-7
    assert all(i % s == 0 for place in zip(*np.unravel_index(found.positions, found.size), strict=True)
               for i, s in zip(place, found.step, strict=True))  # fmt: skip


def test_a_row_of_one_value_has_no_range():
    block = make("dot_product", {})
    torch.nn.init.zeros_(block.theta.weight)
    torch.nn.init.zeros_(block.theta.bias)
    found = block_map("b", block, torch.randn(1, 6, 2, 4, 4))
    assert not found.row(3).any()
    assert np.isfinite(found.values).all()
