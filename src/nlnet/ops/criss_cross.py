"""Criss-cross attention: the non-local operation with keys in the query's own row and column."""

import torch
from torch import Tensor

from nlnet.ops.shapes import check


def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """y_i = sum_{j in cross(i)} softmax_j(query_i . key_j) value_j, one softmax over the cross of i.

    cross(i) holds the positions that differ from i along one axis at most: its row and its column in an image, and
    the line through time too in a video. The center is counted once, so an image has H + W - 1 keys a position and
    a video T + H + W - 2. Time O(N (H + W) (D + E)), memory O(N (H + W)) in place of N^2, with N = H W.

    >>> import torch
    >>> from nlnet import ops
    >>> x = torch.randn(1, 8, 12, 16)
    >>> ops.criss_cross(x, x, x).shape
    torch.Size([1, 8, 12, 16])

    Source: CCNet (Huang et al., ICCV 2019), section 3.2, and its journal version for video.
    Shapes: query and key (B, D, [T,] H, W), value (B, E, [T,] H, W) -> (B, E, [T,] H, W).
    Raises ValueError if the shapes do not fit this pattern.
    """
    position = "T H W" if query.ndim == 5 else "H W"
    patterns = {"query": (query, f"B D {position}"), "key": (key, f"B D {position}")}
    check("criss_cross", {**patterns, "value": (value, f"B E {position}")})
    axes = range(2, query.ndim)
    energies = [_energies(query, key, axis, center=axis == axes[-1]) for axis in axes]
    weights = torch.cat(energies, dim=-1).softmax(dim=-1).split([query.shape[axis] for axis in axes], dim=-1)
    y = _sum_along(weights[0], value, axes[0])
    for axis, weight in zip(axes[1:], weights[1:], strict=True):
        y = y + _sum_along(weight, value, axis)
    return y


def _energies(query: Tensor, key: Tensor, axis: int, *, center: bool) -> Tensor:
    """query_i . key_j for the L positions j on i's line along `axis`, -inf at i without center: (B, [T,] H, W, L)."""
    product = _lines(query, axis) @ _lines(key, axis).transpose(-1, -2)
    if not center:
        product = product.masked_fill(torch.eye(query.shape[axis], dtype=torch.bool, device=query.device), -torch.inf)
    return product.movedim(-2, axis - 1)


def _sum_along(weight: Tensor, value: Tensor, axis: int) -> Tensor:
    """sum_j weight_ij value_j over i's line along `axis`: weight (B, [T,] H, W, L) -> (B, E, [T,] H, W)."""
    summed = weight.movedim(axis - 1, -2) @ _lines(value, axis)
    return summed.movedim(-2, axis - 1).movedim(-1, 1)


def _lines(x: Tensor, axis: int) -> Tensor:
    """(B, D, [T,] H, W) -> (B, the other axes, L, D), with L the length of `axis`; a view."""
    return x.movedim(1, -1).movedim(axis - 1, -2)
