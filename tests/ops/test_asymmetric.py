"""The asymmetric operation and its pyramid of anchors against loops in float64."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nlnet.ops import PYRAMID, asymmetric, pyramid_pool

ADAPTIVE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def anchors(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(B, C, S), cell by cell: floor(c L / k) up to ceil((c + 1) L / k) along each axis."""
    cells = []
    for k in sizes:
        spans = [[slice(c * n // k, math.ceil((c + 1) * n / k)) for c in range(k)] for n in x.shape[2:]]
        cells += [x[(slice(None), slice(None), *span)].flatten(2).mean(dim=2) for span in itertools.product(*spans)]
    return torch.stack(cells, dim=2)


@pytest.mark.parametrize("size", [(9,), (12, 16), (7, 10), (5, 3), (1, 1), (3, 8, 9)], ids=str)
def test_pyramid_pool_is_the_mean_of_each_cell(size: tuple[int, ...]) -> None:
    """Also where an axis is shorter than the grid: its cells then share positions."""
    x = random(2, 3, *size)
    pooled = pyramid_pool(x)
    torch.testing.assert_close(pooled, anchors(x, PYRAMID), rtol=1e-12, atol=1e-12)
    expected = torch.cat([ADAPTIVE[len(size)](x, k).flatten(2) for k in PYRAMID], dim=2)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)


def test_an_image_leaves_110_anchors() -> None:
    assert pyramid_pool(torch.zeros(1, 2, 97, 97)).shape == (1, 2, 110)


def test_a_grid_may_differ_from_axis_to_axis() -> None:
    x = random(1, 2, 4, 6, 7)
    grids = [(1, 1, 1), (2, 3, 3), (4, 6, 5)]
    expected = torch.cat([F.adaptive_avg_pool3d(x, grid).flatten(2) for grid in grids], dim=2)
    torch.testing.assert_close(pyramid_pool(x, grids), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("asking", "answering"), [((4, 5), (4, 5)), ((3, 4), (7, 6)), ((11,), (5,)), ((2, 3, 3), (2, 4, 3))]
)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_it_is_the_softmax_over_the_anchors(asking: tuple[int, ...], answering: tuple[int, ...], scale: float) -> None:
    sizes = (1, 3)
    query, key, value = random(2, 3, *asking), random(2, 3, *answering), random(2, 4, *answering)
    f_BNS = (scale * query.flatten(2).transpose(1, 2) @ anchors(key, sizes)).exp()
    expected = anchors(value, sizes) @ (f_BNS / f_BNS.sum(dim=2, keepdim=True)).transpose(1, 2)
    y = asymmetric(query, key, value, sizes=sizes, scale=scale)
    torch.testing.assert_close(y, expected.view(2, 4, *asking), rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    tensors = [t.requires_grad_() for t in (random(1, 2, 2, 3), random(1, 2, 3, 4), random(1, 3, 3, 4))]
    assert torch.autograd.gradcheck(lambda *t: asymmetric(*t, sizes=(1, 2), scale=0.7), tensors)


@pytest.mark.parametrize(
    ("query", "key", "value", "reason"),
    [
        ((2, 3, 4, 5), (2, 2, 4, 5), (2, 3, 4, 5), "D is 3 in query and 2 in key"),
        ((2, 3, 4, 5), (1, 3, 4, 5), (1, 3, 4, 5), "B is 2 in query and 1 in key"),
        ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 5, 4), "H' is 4 in key and 5 in value"),
        ((2, 3, 4, 5), (2, 3, 20), (2, 3, 20), "key has 3 dimensions instead of 4"),
        ((2, 3), (2, 3), (2, 3), "query has 2 dimensions instead of 3"),
    ],
)
def test_wrong_shapes_are_named(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=rf"asymmetric: expected query \(B, D, .*W\), key .*, got .*: {reason}"):
        asymmetric(torch.zeros(query), torch.zeros(key), torch.zeros(value))


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((2, 3), (1,), r"expected x \(B, C, W\), got \(2, 3\)"),
        ((2, 3, 0), (1,), "W is 0 in x"),
        ((2, 3, 4, 4), (), "expected sizes of at least 1"),
        ((2, 3, 4, 4), (0,), "expected sizes of at least 1"),
        ((2, 3, 4, 4), ((1, 2, 2),), "one or 2 for each grid"),
    ],
)
def test_wrong_grids_are_named(shape: tuple[int, ...], sizes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"pyramid_pool: .*{message}"):
        pyramid_pool(torch.zeros(shape), sizes)
