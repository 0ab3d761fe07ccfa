"""The concatenation without its map: a sort, prefix sums, a search.

Over keys sorted by falling b, query i sees the first c_i, those with b_j > -a_i (equality adds nothing). With G_k and
H_k the sums of the first k g_j and b_j g_j, its sum is a_i G_c + H_c. Written from the last key seen, with
t_i = a_i + b_c,

    y_i = (t_i G_c + L_c) / M,    L_k = H_k - b_k G_k,

every part is as small as the result, so G and L may be rounded once summed; the sums themselves run in float64, because
they cancel where few keys are seen.
The gradient to g is the mirror image: key j is seen by the queries with c_i >= its rank, so queries are summed by c_i
and those sums added up from the far end.

All of it goes some channels at a time (w below), which bounds the memory and stays in the cache. Tables have a row for
every number k of keys, 0 to M, and some more: R rows a clip, a multiple of `TRIANGLE`, and are flattened over clips.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlnet.ops.derivatives import Operation, fold, unfold
from nlnet.ops.precision import upcast

CHUNK = {"cpu": 2**21, "cuda": 2**24}
"""Numbers, positions times channels, that are worked on at a time: what fits a cache, or fills a GPU."""

TRIANGLE = 64
"""Rows that a running sum takes at a time, as one product with a triangular matrix."""


def concatenation_sorted(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """y_i = 1/M sum_j relu(a_i + b_j) g_j in O((N + M) log M + (N + M) E).

    Shapes: a (B, N), b (B, M), g (B, M, E) -> (B, N, E).
    """
    return _OPERATION(a, b, g)


def concatenation_stored(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """The same by storing the map, in float32 or more."""
    weights = torch.relu(upcast(a)[:, :, None] + upcast(b)[:, None]) / b.shape[1]
    return torch.bmm(weights, upcast(g)).to(g.dtype)


def table_rows(m: int) -> int:
    """R: the rows of a table for M keys."""
    return (m // TRIANGLE + 1) * TRIANGLE


def running_sums(x_BRW: Tensor, factor: float, *, reverse: bool = False) -> Tensor:
    """Row k becomes `factor` times the sum of rows 0 to k, or in reverse of rows k to R - 1; x is overwritten."""
    b, rows, w = x_BRW.shape
    x = x_BRW.view(b, -1, TRIANGLE, w)
    # First the sum of the earlier groups of TRIANGLE rows (later ones in reverse): added to the row where a group's own
    # sum starts, it is carried through the group by the product below. So most of the work is a matrix product.
    if reverse:
        x[:, :-1, -1] += x[:, 1:].sum(2).flip(1).cumsum(1).flip(1)
    else:
        x[:, 1:, 0] += x[:, :-1].sum(2).cumsum(1)
    triangle = x.new_full((TRIANGLE, TRIANGLE), factor)
    # The factor rides on the triangle, which saves a pass over the table.
    triangle = triangle.triu() if reverse else triangle.tril()
    return torch.bmm(triangle.expand(b * rows // TRIANGLE, -1, -1), x.flatten(0, 1)).view(b, rows, w)


def _shifted(x_BMW: Tensor) -> Tensor:
    """The table in float64 whose row k is that of key k, from 1: row 0, no key, and those after row M are zero."""
    b, m, w = x_BMW.shape
    # Empty, and each part written once: zeros everywhere and the keys over them would write most of it twice.
    table = x_BMW.new_empty(b, table_rows(m), w, dtype=torch.float64)
    table[:, :1], table[:, 1 : m + 1], table[:, m + 1 :] = 0, x_BMW, 0
    return table


class _Seen(NamedTuple):
    """b_k (B, R, 1), the last of the first k keys, in float64, and t_i (B N, 1), from the sorted order."""

    last: Tensor
    t: Tensor


def _sort(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The keys by falling b, numbered over all clips (B M,), and the row c_i of each query in a table (B N,)."""
    falling, order = b.sort(dim=1, descending=True)
    # searchsorted wants rising numbers: the first place where -b_j >= a_i is the count of keys with b_j > -a_i.
    counts = torch.searchsorted(-falling, a.contiguous())
    clip = torch.arange(len(b), device=a.device)[:, None]
    m = b.shape[1]
    # Numbered over all clips, so that one index_select serves the batch; a gather would need indices (B, N, E).
    return (order + clip * m).flatten(), (counts + clip * table_rows(m)).flatten()


def _seen(a: Tensor, b: Tensor, keys: Tensor, rows: Tensor) -> _Seen:
    falling = b.flatten().index_select(0, keys).view(*b.shape, 1)
    last = _shifted(falling)
    # A query that sees no key finds 0 in row 0; its t_i = a_i is harmless, because G_0 and L_0 are 0.
    return _Seen(last, (a.flatten() + last.to(b.dtype).flatten().index_select(0, rows))[:, None])


def _columns(a: Tensor, g: Tensor) -> Iterator[slice]:
    """Channels to work on at a time: whole cache lines."""
    clips, m, e = g.shape
    limit = CHUNK.get(g.device.type, CHUNK["cuda"]) // max(clips * (a.shape[1] + m), 1)
    # 16 numbers of float32 are a cache line; narrower slices would read the same lines more than once.
    width = max(limit // 16 * 16, 16)
    return (slice(start, min(start + width, e)) for start in range(0, e, width))


def _in_order(g_BMW: Tensor, keys: Tensor) -> Tensor:
    return upcast(g_BMW).reshape(-1, g_BMW.shape[2]).index_select(0, keys).view(g_BMW.shape)


@torch.library.custom_op("nlnet::concatenation", mutates_args=())
def _concatenation(a: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, and for the backward pass the table of G_k / M, the order of the keys and the rows of the queries."""
    (clips, m, e), (keys, rows) = g.shape, _sort(upcast(a), upcast(b))
    seen = _seen(upcast(a), upcast(b), keys, rows)
    result = g.new_empty(a.numel(), e)
    slopes = upcast(g.new_empty(0)).new_empty(clips * table_rows(m), e)
    for columns in _columns(a, g):
        g_BMW = _in_order(g[..., columns], keys)
        # Both sums and their difference in float64; only then, as small as the result, are they rounded.
        slope = running_sums(_shifted(g_BMW), 1 / m)
        level = running_sums(_shifted(g_BMW).mul_(seen.last), 1 / m).addcmul_(seen.last, slope, value=-1)
        # Kept for the backward pass, and so already in the type that a_i's gradient is summed in.
        slopes[:, columns] = slope.flatten(0, 1)
        y = level.to(g_BMW.dtype).flatten(0, 1).index_select(0, rows)
        y.addcmul_(slopes[:, columns].index_select(0, rows), seen.t)
        result[:, columns] = y
    return result.view(*a.shape, e), slopes, keys, rows


@_concatenation.register_fake
def _(a: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    clips, m, e = g.shape
    slopes = upcast(g.new_empty(0)).new_empty(clips * table_rows(m), e)
    keys, rows = (t.new_empty(t.shape[0] * t.shape[1], dtype=torch.int64) for t in (b, a))
    return g.new_empty(*a.shape, e), slopes, keys, rows


@torch.library.custom_op("nlnet::concatenation_backward", mutates_args=())
def _gradients(
    grad: Tensor, a: Tensor, b: Tensor, g: Tensor, slopes: Tensor, keys: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """da_i = grad_i . G_c / M,  db_j = g_j . P_j / M,  dg_j = sum_i (a_i + b_j) grad_i / M,  P_j = sum_i grad_i.

    The sums run over the queries i that see key j.
    """
    (clips, m, e), seen = g.shape, _seen(upcast(a), upcast(b), keys, rows)
    falling = seen.last[:, 1 : m + 1]
    grad_a, grad_b, grad_g = torch.zeros_like(seen.t), torch.zeros_like(falling), g.new_empty(clips * m, e)
    for columns in _columns(a, g):
        grad_NW = upcast(grad[..., columns].reshape(a.numel(), -1).contiguous())
        grad_a += (slopes[:, columns].index_select(0, rows) * grad_NW).sum(1, keepdim=True)
        sums = _by_count(grad_NW, clips, rows, m)
        # sum_i (a_i + b_j) grad_i is written with t_i too: t_i - b_c + b_j, again from parts that are small.
        t_sums = _by_count(grad_NW * seen.t, clips, rows, m).addcmul_(seen.last, sums, value=-1)
        sums, t_sums = (running_sums(x, 1 / m, reverse=True)[:, 1 : m + 1] for x in (sums, t_sums))
        grad_b += (sums * _in_order(g[..., columns], keys)).sum(2, keepdim=True)
        grad_g[:, columns].index_copy_(0, keys, t_sums.addcmul_(falling, sums).to(g.dtype).reshape(clips * m, -1))
    # `keys` is a permutation: every row is written, so nothing has to be zero before.
    unsorted = b.new_empty(clips * m).index_copy_(0, keys, grad_b.to(b.dtype).flatten())
    return grad_a.to(a.dtype).view(a.shape), unsorted.view(b.shape), grad_g.view(g.shape)


def _by_count(x_NW: Tensor, clips: int, rows: Tensor, m: int) -> Tensor:
    """The table of the sums, in float64, of the queries that see k keys."""
    table = x_NW.new_zeros(clips * table_rows(m), x_NW.shape[1], dtype=torch.float64)
    return table.index_add_(0, rows, x_NW.double()).view(clips, table_rows(m), -1)


@_gradients.register_fake
def _(
    grad: Tensor, a: Tensor, b: Tensor, g: Tensor, slopes: Tensor, keys: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(a.shape), b.new_empty(b.shape), g.new_empty(g.shape)


# Under `torch.vmap` clips and the mapped axis are one axis. The tables are flattened over clips and have none, so the
# gradient makes them again.
@_concatenation.register_vmap
def _(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[Any, Any]:
    result, *tables = _concatenation(*fold(inputs, in_dims, info.batch_size))
    return (*unfold([result], info.batch_size), *(t[:0] for t in tables)), (0, None, None, None)


@_gradients.register_vmap
def _(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[Any, Any]:
    grad, *tensors = fold(inputs[:4], in_dims, info.batch_size)
    return unfold(_gradients(grad, *tensors, *_concatenation(*tensors)[1:]), info.batch_size), (0, 0, 0)


_OPERATION = Operation(_concatenation, _gradients, concatenation_stored)
