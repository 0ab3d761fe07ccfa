"""Windowed attention: the non-local operation with keys in a square around the query."""

import torch
from torch import Tensor

from nlnet.ops.pairwise.softmax import embedded_gaussian
from nlnet.ops.precision import in_autocast_type, upcast
from nlnet.ops.shapes import check

BLOCK = 16
"""Side of the squares of queries that are worked on at a time. A smaller one has fewer keys outside of the windows, a
larger one larger matrix products."""


@in_autocast_type
def windowed(theta: Tensor, phi: Tensor, g: Tensor, *, window: int) -> Tensor:
    """y_i = sum_{j in W(i)} softmax_j(theta_i . phi_j) g_j, one softmax over the window of i.

    W(i) holds the positions of the image at most (window - 1) / 2 rows and columns from i, i included: `window` x
    `window` of them, fewer at the border. Positions outside of the image are no keys. A window that reaches over the
    whole image from everywhere is the embedded Gaussian.

    Time O(N (w + b)^2 (D + E)), memory O(N (w + b)^2) where the result is learnt from and O(N E) where it is not, with
    N = H W, w the window and b = `BLOCK`. Half precision is computed in float32.

    >>> import torch
    >>> from nlnet import ops
    >>> x = torch.randn(1, 8, 40, 48)
    >>> ops.windowed(x, x, x, window=9).shape
    torch.Size([1, 8, 40, 48])

    Source: Liu et al., "Non-local recurrent network for image restoration", NeurIPS 2018, section 3: a q x q
    neighborhood of each position. The border is ours, the paper does not say. The code released with an early version
    attends within a whole patch instead, and at the test to overlapping patches whose results it averages.
    Shapes: theta and phi (B, D, H, W), g (B, E, H, W) -> (B, E, H, W).
    Raises ValueError if the shapes do not fit this pattern, or the window is no odd number from 1.
    """
    check("windowed", {"theta": (theta, "B D H W"), "phi": (phi, "B D H W"), "g": (g, "B E H W")})
    if window < 1 or window % 2 == 0:
        raise ValueError(f"windowed: expected an odd window from 1, got {window}")
    reach, dtype = window // 2, g.dtype
    if torch.compiler.is_exporting():
        return _gathered(upcast(theta), upcast(phi), upcast(g), reach).to(dtype)
    if reach + 1 >= max(g.shape[2:]):
        y = embedded_gaussian(*(t.flatten(2).mT for t in (theta, phi, g)))
        return y.mT.unflatten(2, g.shape[2:])
    return _blocks(upcast(theta), upcast(phi), upcast(g), reach).to(dtype)


def _blocks(theta: Tensor, phi: Tensor, g: Tensor, reach: int) -> Tensor:
    """A block of queries after the other, each with the keys that any of them meets."""
    height, width = g.shape[2:]
    bands = []
    for top in range(0, height, BLOCK):
        rows, key_rows = _reached(top, height, reach)
        near_y = _near(rows, key_rows, reach, g.device)
        band = []
        for left in range(0, width, BLOCK):
            columns, key_columns = _reached(left, width, reach)
            near = _both(near_y, _near(columns, key_columns, reach, g.device))
            query = theta[:, :, rows, columns].flatten(2).mT
            key, value = (t[:, :, key_rows, key_columns].flatten(2) for t in (phi, g))
            y = _softmax(query @ key, near) @ value.mT
            band.append(y.mT.unflatten(2, (rows.stop - rows.start, columns.stop - columns.start)))
        bands.append(torch.cat(band, dim=3))
    return torch.cat(bands, dim=2)


def _reached(start: int, length: int, reach: int) -> tuple[slice, slice]:
    """The positions of a block along one axis, and those that they meet."""
    stop = min(start + BLOCK, length)
    return slice(start, stop), slice(max(0, start - reach), min(length, stop + reach))


def _near(positions: slice, keys: slice, reach: int, device: torch.device) -> Tensor:
    """(n, m): whether a key is within reach of a position, along one axis."""
    here = torch.arange(positions.start, positions.stop, device=device)
    there = torch.arange(keys.start, keys.stop, device=device)
    return (here[:, None] - there).abs() <= reach


def _both(near_y: Tensor, near_x: Tensor) -> Tensor:
    """(n_y n_x, m_y m_x): whether a key is within reach along both axes."""
    near = near_y[:, None, :, None] & near_x[None, :, None, :]
    return near.flatten(2).flatten(0, 1)


def _softmax(scores: Tensor, near: Tensor) -> Tensor:
    return scores.masked_fill(~near, -torch.inf).softmax(dim=-1)


def _gathered(theta: Tensor, phi: Tensor, g: Tensor, reach: int) -> Tensor:
    """The same of all blocks at once, whose number may be unknown: for an exported program, of images of any
    size from `BLOCK` + 1 (a single block would be a case of its own to the tracer).

    A block of 16 x 16 has (16 + 2 reach)^2 keys, those outside of the image left out by the mask.
    """
    (height, width), side = g.shape[2:], BLOCK + 2 * reach
    down, across = (height + BLOCK - 1) // BLOCK, (width + BLOCK - 1) // BLOCK
    rows, columns = (_of_blocks(n, side, reach, g.device) for n in (down, across))
    near = _near(slice(reach, reach + BLOCK), slice(0, side), reach, g.device)
    inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inside = inside_y[:, None, :, None] & inside_x[None, :, None, :]
    mask = _both(near, near) & inside.flatten(2)[:, :, None]  # (down, across, BLOCK^2, side^2)

    key_index = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    query_index = tuple(index[:, reach : reach + BLOCK] for index in key_index)
    query, key, value = _blocks_of(theta, *query_index), _blocks_of(phi, *key_index), _blocks_of(g, *key_index)
    # A query beyond the image may meet no key: a finite score keeps its softmax from being none.
    scores = (query @ key.mT).masked_fill(~mask, torch.finfo(query.dtype).min)
    y = (scores.softmax(dim=-1) @ value).unflatten(3, (BLOCK, BLOCK)).permute(0, 5, 1, 3, 2, 4)
    y = y.flatten(4).flatten(2, 3)
    # Indexed, not sliced: a slice that may be the whole would be a case of its own to the tracer.
    return y[:, :, torch.arange(height, device=y.device)][..., torch.arange(width, device=y.device)]


def _blocks_of(t: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, down, across, n m, C), of rows (down, n) and columns (across, m)."""
    t = t[:, :, rows.flatten()][..., columns.flatten()].unflatten(3, columns.shape).unflatten(2, rows.shape)
    return t.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)


def _of_blocks(blocks: int, side: int, reach: int, device: torch.device) -> Tensor:
    """(blocks, side): the positions that each block meets along one axis, outside of the image too."""
    return torch.arange(blocks, device=device)[:, None] * BLOCK + torch.arange(side, device=device) - reach
