"""Asymmetric non-local operation: all positions ask, a few pooled anchors answer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nlnet.ops.pairwise import embedded_gaussian
from nlnet.ops.shapes import check

PYRAMID = (1, 3, 6, 8)
"""Anchors along each axis, level by level: 1 + 9 + 36 + 64 = 110 anchors in an image."""


def asymmetric(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    sizes: Sequence[int | Sequence[int]] = PYRAMID,
    scale: float = 1.0,
) -> Tensor:
    """y_i = sum_s softmax_s(scale * query_i . P(key)_s) P(value)_s, with P the pyramid pooling of `pyramid_pool`.

    The N positions of query attend to S anchors, a number that does not grow with the image: time O(N S (D + E)).
    Query may have other sizes along its axes than key and value, as in the fusion of two levels of a network.

    >>> import torch
    >>> from nlnet import ops
    >>> x = torch.randn(1, 8, 12, 16)
    >>> ops.asymmetric(x, x, x).shape
    torch.Size([1, 8, 12, 16])

    Source: Asymmetric Non-local Neural Networks (Zhu et al., ICCV 2019), section 3.2.
    Shapes: query (B, D, [T, [H,]] W), key (B, D, [T', [H',]] W'), value (B, E, [T', [H',]] W')
    -> (B, E, [T, [H,]] W).
    Raises ValueError if the shapes do not fit this pattern, or `sizes` the axes.
    """
    position = _axes(query)
    other = position.replace(" ", "' ") + "'"
    patterns = {"query": (query, f"B D {position}"), "key": (key, f"B D {other}"), "value": (value, f"B E {other}")}
    check("asymmetric", patterns)
    query_BND = query.flatten(2).transpose(1, 2)
    key_BSD = pyramid_pool(key, sizes).transpose(1, 2)
    value_BSE = pyramid_pool(value, sizes).transpose(1, 2)
    y_BNE = embedded_gaussian(query_BND, key_BSD, value_BSE, scale=scale)
    return y_BNE.transpose(1, 2).unflatten(2, query.shape[2:])


def pyramid_pool(x: Tensor, sizes: Sequence[int | Sequence[int]] = PYRAMID) -> Tensor:
    """P(x)_s: the means of x over the cells of several grids, laid side by side: the "anchors".

    A size of k cuts each axis in k cells, (k_T, k_H, k_W) gives the number for each; S is the sum over the grids of
    their numbers of cells. Cell c of k along an axis of length L holds floor(c L / k) to ceil((c + 1) L / k) - 1, as in
    adaptive average pooling. It is written as one small matrix product an axis, whose gradient on a GPU is the same in
    every run; that of adaptive pooling is not.

    >>> import torch
    >>> from nlnet import ops
    >>> ops.pyramid_pool(torch.randn(1, 8, 12, 16)).shape
    torch.Size([1, 8, 110])

    Shapes: x (B, C, [T, [H,]] W) -> (B, C, S).
    Raises ValueError if the shape does not fit this pattern, or `sizes` the axes.
    """
    check("pyramid_pool", {"x": (x, f"B C {_axes(x)}")})
    axes = x.ndim - 2
    grids = [(size,) * axes if isinstance(size, int) else tuple(size) for size in sizes]
    if not grids or any(len(grid) != axes or min(grid) < 1 for grid in grids):
        raise ValueError(f"pyramid_pool: expected sizes of at least 1, one or {axes} for each grid, got {sizes}")
    return torch.cat([_pool(x, grid).flatten(2) for grid in grids], dim=2)


def _pool(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Means over the cells of one grid: (B, C, [T, [H,]] W) -> (B, C, *grid)."""
    # The last axis first: it is contiguous, and the others are then short.
    for axis in range(x.ndim - 1, 1, -1):
        x = (x.movedim(axis, -1) @ _cells(x.shape[axis], grid[axis - 2], x).T).movedim(-1, axis)
    return x


def _cells(length: int, count: int, like: Tensor) -> Tensor:
    """(count, length): row c holds one over the length of cell c inside that cell, zero outside."""
    position = torch.arange(length, device=like.device)
    cell = torch.arange(count, device=like.device)[:, None]
    inside = (position >= cell * length // count) & (position < ((cell + 1) * length + count - 1) // count)
    inside = inside.to(torch.promote_types(like.dtype, torch.float32))
    return (inside / inside.sum(dim=1, keepdim=True)).to(like.dtype)


def _axes(x: Tensor) -> str:
    """The axes of a position of x (B, C, [T, [H,]] W): "W", "H W" or "T H W"."""
    return " ".join("THW"[-min(max(x.ndim - 2, 1), 3) :])
