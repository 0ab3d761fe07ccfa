"""Global context against a loop in float64."""

import math

import pytest
import torch
from torch import Tensor

from nlnet.ops import embedded_gaussian, global_context


def tensors(b: int, m: int, e: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(b + m + e)
    a = torch.randn(b, m, generator=generator, dtype=torch.float64)
    return a, torch.randn(b, m, e, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("b", "m", "e"), [(2, 7, 3), (1, 1, 1), (3, 2, 5)])
def test_it_is_the_equation(b: int, m: int, e: int) -> None:
    a, g = tensors(b, m, e)
    y = torch.zeros(b, e, dtype=torch.float64)
    for clip in range(b):
        f = [math.exp(a[clip, j]) for j in range(m)]
        for j in range(m):
            y[clip] += f[j] / sum(f) * g[clip, j]
    torch.testing.assert_close(global_context(a, g), y, rtol=1e-12, atol=1e-12)


def test_it_is_the_embedded_gaussian_of_a_query_that_is_the_same_everywhere() -> None:
    a, g = tensors(2, 6, 4)
    theta = torch.ones(2, 5, 1, dtype=torch.float64)
    y = embedded_gaussian(theta, a[..., None], g)
    torch.testing.assert_close(y, global_context(a, g)[:, None].expand_as(y), rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    assert torch.autograd.gradcheck(global_context, [t.requires_grad_() for t in tensors(2, 3, 2)])


@pytest.mark.parametrize(
    ("a", "g", "reason"),
    [
        ((2, 3), (2, 4, 5), "M is 3 in a and 4 in g"),
        ((2, 3), (1, 3, 5), "B is 2 in a and 1 in g"),
        ((2, 0), (2, 0, 5), "M is 0 in a"),
        ((2, 3, 1), (2, 3, 5), "a has 3 dimensions instead of 2"),
    ],
)
def test_wrong_shapes_are_named(a: tuple[int, ...], g: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"global_context: expected a \(B, M\), g \(B, M, E\), got .*: {reason}"):
        global_context(torch.zeros(a), torch.zeros(g))
