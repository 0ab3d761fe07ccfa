"""softmax(scale query key^T) value for some queries at a time: linear in memory, for any D and E.

Forward and backward each compute the map, a tile of queries at a time, so that what is done to a tile between two
matrix products stays in the cache. Between the two only its first `KEPT` numbers are kept, which saves computing these
again. Half precision is computed in float32, tile by tile.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlnet.ops.derivatives import Operation, fold, in_forward_mode, unfold
from nlnet.ops.precision import upcast

TILE = 2**22
"""Numbers of the map in a tile: 1,280 queries of 3,136 keys. Smaller tiles make the matrix products slower."""

KEPT = 2 * TILE
"""Numbers of the map kept for the backward pass: 32 MiB in float32. More saves time, a product in seven at most; but
with four tiles a non-local block of 512 channels and 16x28x28 takes 1.6 times the memory of its convolutions."""


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """y_i = sum_j softmax_j(scale * query_i . key_j) value_j.

    Shapes: query (B, N, D), key (B, M, D), value (B, M, E) -> (B, N, E).
    """
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    operation = Operation(
        lambda q, k, v: _attention(q, k, v, scale, KEPT if keep else 0),
        lambda grad, q, k, v, kept: _gradients(grad, q, k, v, kept, scale),
        lambda q, k, v: stored(q, k, v, scale),
    )
    return operation(query, key, value)


def stored(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The same by storing the map, in float32 or more."""
    query, key, value, dtype = upcast(query), upcast(key), upcast(value), value.dtype
    return torch.bmm(softmax(scores(query, key, scale)), value).to(dtype)


def scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """scale query_i . key_j (B, N, M); the keys are scaled, which are fewer."""
    return torch.bmm(query, _scaled(key, scale).transpose(1, 2))


def _scaled(key: Tensor, scale: float) -> Tensor:
    return key if scale == 1 else key * scale


def softmax(scores: Tensor) -> Tensor:
    """softmax_j of (B, N, M)."""
    if in_forward_mode():
        # PyTorch's own tangent of a softmax overwrites what the backward pass of that tangent needs.
        weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        return weights / weights.sum(dim=-1, keepdim=True)
    return scores.softmax(dim=-1)


class _Tile(NamedTuple):
    """Some queries of one clip, or several clips whole; `kept` is where its map is kept, or None."""

    clips: slice
    rows: slice
    kept: slice | None


def _tiles(b: int, n: int, m: int, keep: int) -> Iterator[_Tile]:
    """All queries, and the first tiles kept as far as `keep` numbers go."""
    rows = min(n, max(TILE // m // 64 * 64, 1))
    clips = max(TILE // (n * m), 1)
    start = 0
    for clip in range(0, b, clips):
        for row in range(0, n, rows):
            some, these = slice(clip, min(clip + clips, b)), slice(row, min(row + rows, n))
            end = start + (some.stop - some.start) * (these.stop - these.start) * m
            yield _Tile(some, these, slice(start, end) if end <= keep else None)
            start = end


def _buffer(like: Tensor, b: int, n: int, m: int) -> Tensor:
    """Memory for the map of any tile."""
    return like.new_empty(min(TILE + m, b * n * m))


def _product(left: Tensor, right: Tensor, buffer: Tensor) -> Tensor:
    """left @ right in the memory of `buffer`: fresh memory for every tile would cost more than the softmax."""
    shape = (left.shape[0], left.shape[1], right.shape[2])
    return torch.bmm(left, right, out=buffer[: shape[0] * shape[1] * shape[2]].view(shape))


def _into(target: Tensor, left: Tensor, right: Tensor) -> None:
    """left @ right into a part of a result, without a copy where the types are one."""
    if target.dtype == left.dtype:
        torch.bmm(left, right, out=target)
    else:
        target.copy_(torch.bmm(left, right))


def _weights(query: Tensor, key: Tensor, memory: Tensor) -> Tensor:
    weights = _product(query, key.mT, memory)
    return torch.softmax(weights, -1, out=weights)


@torch.library.custom_op("nlnet::tiled_attention", mutates_args=())
def _attention(query: Tensor, key: Tensor, value: Tensor, scale: float, keep: int) -> tuple[Tensor, Tensor]:
    """y, and up to `keep` numbers of the map."""
    (b, n, _), m = query.shape, key.shape[1]
    # the scale goes to the keys, which are fewer; in float32 or more it does not matter to which side
    key, value, result = _scaled(upcast(key), scale), upcast(value), query.new_empty(b, n, value.shape[2])
    kept = key.new_empty(min(keep, b * n * m))
    memory = _buffer(key, b, n, m) if len(kept) < b * n * m else kept
    for clips, rows, slot in _tiles(b, n, m, keep):
        some = memory if slot is None else kept[slot]
        weights = _weights(upcast(query[clips, rows]), key[clips], some)
        _into(result[clips, rows], weights, value[clips])
    return result, kept


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float, keep: int) -> tuple[Tensor, Tensor]:
    (b, n, _), m = query.shape, key.shape[1]
    kept = upcast(key.new_empty(0)).new_empty(min(keep, b * n * m))
    return query.new_empty(b, n, value.shape[2]), kept


@torch.library.custom_op("nlnet::tiled_attention_backward", mutates_args=())
def _gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """With P the map and dP = grad value^T: dS = P (dP - sum_j P dP), then three products."""
    (b, n, _), m, dtype = query.shape, key.shape[1], query.dtype
    key, value = _scaled(upcast(key), scale), upcast(value)
    grad_query = query.new_empty(query.shape)
    grad_key, grad_value = key.new_empty(key.shape), value.new_empty(value.shape)
    memory = _buffer(key, b, n, m) if len(kept) < b * n * m else kept
    memory_2 = _buffer(key, b, n, m)
    for clips, rows, slot in _tiles(b, n, m, len(kept)):
        some, some_grad = upcast(query[clips, rows]), upcast(grad[clips, rows])
        if slot is None:
            weights = _weights(some, key[clips], memory)
        else:
            weights = kept[slot].view(some.shape[0], some.shape[1], m)
        before = 0 if rows.start == 0 else 1  # what the tiles before have added up, from the second of a clip on
        grad_value[clips].baddbmm_(weights.mT, some_grad, beta=before)
        change = _product(some_grad, value[clips].mT, memory_2)
        torch.ops.aten._softmax_backward_data.out(change, weights, -1, change.dtype, grad_input=change)
        _into(grad_query[clips, rows], change, key[clips])
        grad_key[clips].baddbmm_(change.mT, some, beta=before)
    return grad_query, (grad_key if scale == 1 else grad_key.mul_(scale)).to(dtype), grad_value.to(dtype)


@_gradients.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


# Under `torch.vmap` clips and the mapped axis are one axis. What is kept has no such axis, so nothing is.
@_attention.register_vmap
def _(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
    result, kept = _attention(*fold(inputs[:3], in_dims, info.batch_size), inputs[3], 0)
    return (*unfold([result], info.batch_size), kept), (0, None)


@_gradients.register_vmap
def _(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
    nothing = inputs[4].new_empty(0)
    results = _gradients(*fold(inputs[:4], in_dims, info.batch_size), nothing, inputs[5])
    return unfold(results, info.batch_size), (0, 0, 0)
