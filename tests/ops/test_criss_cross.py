"""Criss-cross attention against full attention with a mask, in float64."""

import pytest
import torch
from torch import Tensor

from nlnet.ops import criss_cross

# images and videos; a single row, column and position, where the center must still be there once
SIZES = [(4, 5), (5, 4), (1, 6), (6, 1), (1, 1), (3, 4, 5), (1, 4, 3), (2, 1, 1)]


def tensors(size: tuple[int, ...], d: int = 3, e: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    query, key, value = (torch.randn(2, c, *size, generator=generator, dtype=torch.float64) for c in (d, d, e))
    return query, key, value


def cross(size: tuple[int, ...]) -> Tensor:
    """(N, N): true where i and j differ along one axis at most."""
    axes = [torch.arange(length) for length in size]
    where_NA = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    return (where_NA[:, None] != where_NA[None]).sum(dim=2) <= 1


def masked_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    f_BNN = (query.flatten(2).transpose(1, 2) @ key.flatten(2)).exp() * cross(tuple(query.shape[2:]))
    y_BEN = value.flatten(2) @ (f_BNN / f_BNN.sum(dim=2, keepdim=True)).transpose(1, 2)
    return y_BEN.view_as(value)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_is_attention_within_the_cross(size: tuple[int, ...]) -> None:
    query, key, value = tensors(size)
    y = criss_cross(query, key, value)
    torch.testing.assert_close(y, masked_attention(query, key, value), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "keys"), [((4, 5), 8), ((3, 4, 5), 10)])
def test_the_center_counts_once(size: tuple[int, ...], keys: int) -> None:
    """With equal weights, a one at the position itself arrives as 1 / (H + W - 1), or 1 / (T + H + W - 2)."""
    query, key, value = torch.zeros(1, 1, *size), torch.zeros(1, 1, *size), torch.zeros(1, 1, *size)
    center = (0, 0, *(length // 2 for length in size))
    value[center] = 1
    assert criss_cross(query, key, value)[center].item() == pytest.approx(1 / keys)


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (2, 2, 2)], ids=str)
def test_gradients(size: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(criss_cross, [t.requires_grad_() for t in tensors(size, d=2, e=2)])


def test_large_products_do_not_overflow() -> None:
    query = key = torch.full((1, 8, 3, 4), 40.0)
    value = torch.randn(1, 2, 1, 1).expand(1, 2, 3, 4)
    torch.testing.assert_close(criss_cross(query, key, value), value)


@pytest.mark.parametrize(
    ("query", "key", "value", "reason"),
    [
        ((2, 3, 4, 5), (2, 2, 4, 5), (2, 3, 4, 5), "D is 3 in query and 2 in key"),
        ((2, 3, 4, 5), (2, 3, 5, 4), (2, 3, 4, 5), "H is 4 in query and 5 in key"),
        ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 4), "W is 5 in query and 4 in value"),
        ((2, 3, 4, 5), (2, 3, 4, 5), (1, 3, 4, 5), "B is 2 in query and 1 in value"),
        ((2, 3, 4), (2, 3, 4), (2, 3, 4), "query has 3 dimensions instead of 4"),
        ((2, 3, 0, 5), (2, 3, 0, 5), (2, 3, 0, 5), "H is 0 in query"),
    ],
)
def test_wrong_shapes_are_named(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], reason: str
) -> None:
    message = rf"criss_cross: expected query \(B, D, H, W\), key .*, value \(B, E, H, W\), got .*: {reason}"
    with pytest.raises(ValueError, match=message):
        criss_cross(torch.zeros(query), torch.zeros(key), torch.zeros(value))


def test_no_clips_give_no_clips() -> None:
    assert criss_cross(torch.zeros(0, 2, 4, 5), torch.zeros(0, 2, 4, 5), torch.zeros(0, 3, 4, 5)).shape == (0, 3, 4, 5)
