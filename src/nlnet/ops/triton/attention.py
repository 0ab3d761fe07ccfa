"""The softmax pair on a GPU, for more channels than the 256 at which fused attention stops: the paper's res4 has 512.

With 512 channels the softmax is cheap beside the matrix products. So the products that need no softmax are left to the
library that does them fastest, and Triton does what lies between, on a strip of the (N, M) map, at most `STRIP_BYTES`.

- forward: one kernel computes the scores and their softmax within tiles of keys, one weighs the tiles against each
  other, one product with the values follows. The scores, in float32, never leave the registers.
- backward: one kernel computes the strip's weights again, from the row's log sum exp, with the gradient of its scores;
  three products follow.

Shapes: B clips, N queries, M keys, D channels of query and key, E channels of value.
"""

import importlib.util
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlnet.ops.derivatives import Operation, fold, unfold
from nlnet.ops.tiled import stored

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

STRIP_BYTES = 256 << 20
"""The largest strip of the map, in bytes: the weights in the forward pass, the weights and their gradient backward."""

STRIP_ROWS = 1024
"""Rows a strip should have before it spans more clips: fewer make the products with its transpose thin."""

ROW_STEP = 256
"""A strip that does not end the map has a multiple of this many rows."""

MAX_CLIPS = 65535
"""The largest grid of programs along the clips."""

MIX_ROWS, DOT_ROWS = 16, 64
"""Rows of one program of the kernels that weigh tiles and that multiply rows with rows."""

INSTALLED = torch.version.cuda is not None and importlib.util.find_spec("triton") is not None
"""Whether this PyTorch is built for CUDA and Triton is there; a supported GPU has compute capability 8 or more."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter runs the kernels on the CPU, for tests."""


class Tiles(NamedTuple):
    """What one program computes: rows x keys scores, `depth` channels at a time, in `stages` overlapping loads."""

    rows: int
    keys: int
    depth: int
    warps: int
    stages: int

    def shared_bytes(self, itemsize: int) -> int:
        """The shared memory that the loads in flight take."""
        return self.stages * (self.rows + self.keys) * self.depth * itemsize


SCORE_TILES: dict[int, tuple[Tiles, ...]] = {
    2: (Tiles(256, 128, 64, 8, 3), Tiles(128, 128, 64, 8, 2), Tiles(64, 64, 32, 4, 2)),
    4: (Tiles(64, 64, 32, 4, 3), Tiles(32, 32, 32, 4, 2)),
}
"""By the bytes of one number, for the forward kernel: the first whose loads fit the device is taken."""

GRADIENT_TILES: dict[int, tuple[Tiles, ...]] = dict(SCORE_TILES)
"""The same for the backward kernel. Equal depths make its scores equal the forward's bit by bit."""


def supports(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attention` takes these: one dtype of `DTYPES`, nothing empty, on a CUDA GPU that Triton compiles for.

    With TRITON_INTERPRET=1 in the environment, tensors of the CPU too.
    """
    tensors = (query, key, value)
    alike = all(t.dtype == query.dtype and t.device == query.device and t.numel() > 0 for t in tensors)
    if not alike or query.dtype not in DTYPES:
        return False
    on_gpu = query.device.type == "cuda" and INSTALLED
    return INTERPRETED or (on_gpu and torch.cuda.get_device_properties(query.device).major >= 8)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """y_i = sum_j softmax_j(query_i . key_j) value_j, at memory linear in N and M: `STRIP_BYTES` beside the tensors.

    Any derivative beyond the first takes the plain form, which stores the map. Sums run in float32.

    Shapes: query (B, N, D), key (B, M, D), value (B, M, E) -> (B, N, E).
    Raises ValueError if the shapes do not fit this pattern or `supports` is false.
    """
    shapes = [tuple(t.shape) for t in (query, key, value)]
    if [len(shape) for shape in shapes] != [3, 3, 3] or not (
        query.shape[::2] == key.shape[::2] and key.shape[:2] == value.shape[:2]
    ):
        raise ValueError(f"attention: expected query (B, N, D), key (B, M, D), value (B, M, E), got {shapes}")
    if not supports(query, key, value):
        kinds = ", ".join(f"{t.dtype} on {t.device}" for t in (query, key, value))
        raise ValueError(
            f"attention: needs one half or single dtype, nothing empty and a CUDA GPU, got {kinds}, {shapes}"
        )
    return _OPERATION(query, key, value)


@torch.library.custom_op("nlnet::attention", mutates_args=())
def _forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The output (B, N, E) and the log sum exp of each row of scores, (B, N) in float32."""
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    out = query.new_empty(*query.shape[:2], value.shape[2])
    lse = query.new_empty(query.shape[:2], dtype=torch.float32)
    tiles = _fitting(SCORE_TILES, query)
    with torch.cuda.device_of(query):
        for clips in _clips(query, key, buffers=1):
            for rows in _rows(query[clips], key, buffers=1):
                weights = _weights(query[clips, rows], key[clips], lse[clips, rows], tiles)
                torch.bmm(weights, value[clips], out=out[clips, rows])
                del weights  # before the next strip's are made
    return out, lse


@torch.library.custom_op("nlnet::attention_backward", mutates_args=())
def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value."""
    grad, query, key, value = grad.contiguous(), query.contiguous(), key.contiguous(), value.contiguous()
    results = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    with torch.cuda.device_of(query):
        for clips in _clips(query, key, buffers=2):
            inputs = [t[clips] for t in (grad, query, key, value, out, lse)]
            _backward_clips(*inputs, *(t[clips] for t in results))
    return results


def _backward_clips(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Writes dq, dk and dv: dq strip by strip, dk and dv summed over the strips in float32."""
    strips = list(_rows(query, key, buffers=2))
    parts = (dk, dv) if len(strips) > 1 else ()
    sums = [torch.zeros_like(part, dtype=torch.float32) for part in parts]
    tiles = _fitting(GRADIENT_TILES, query)
    for rows in strips:
        strip = grad[:, rows], query[:, rows], key, value, out[:, rows], lse[:, rows]
        weights, slopes = _weights_and_slopes(*strip, tiles)
        torch.bmm(slopes, key, out=dq[:, rows])
        torch.bmm(slopes.transpose(1, 2), query[:, rows], out=dk)
        torch.bmm(weights.transpose(1, 2), grad[:, rows], out=dv)
        del weights, slopes  # before the next strip's are made
        for total, part in zip(sums, parts, strict=True):
            total += part
    for total, part in zip(sums, parts, strict=True):
        part.copy_(total)


def _weights(query: Tensor, key: Tensor, lse: Tensor, tiles: Tiles) -> Tensor:
    """softmax_j(query_i . key_j) of a strip, (clips, rows, M); writes its log sum exp into `lse`."""
    from nlnet.ops.triton import kernels as kernels

    (clips, n, d), m = query.shape, key.shape[1]
    key_tiles, row_tiles = _ceil(m, tiles.keys), _ceil(n, tiles.rows)
    weights = query.new_empty(clips, n, _width(key))
    tops, sums = query.new_empty(2, clips, key_tiles, n, dtype=torch.float32)
    kernels.tile_softmax[key_tiles, row_tiles, clips](
        *(query, key, weights, tops, sums, n, m, d, query.stride(0), key.stride(0)),
        *(weights.stride(0), weights.stride(1)),
        **_launch(tiles, query),
    )
    kernels.mix_tiles[_ceil(n, MIX_ROWS), clips](
        *(weights, tops, sums, lse, n, key_tiles, weights.stride(0), weights.stride(1), lse.stride(0)),
        ROWS=MIX_ROWS,
        KEYS=tiles.keys,
    )
    return weights[:, :, :m]


def _weights_and_slopes(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, tiles: Tiles
) -> tuple[Tensor, Tensor]:
    """The softmax of a strip and the gradient of its scores, both (clips, rows, M)."""
    from nlnet.ops.triton import kernels as kernels

    (clips, n, d), (m, e) = query.shape, value.shape[1:]
    delta = torch.empty_like(lse, memory_format=torch.contiguous_format)
    kernels.row_dots[_ceil(n, DOT_ROWS), clips](
        *(grad, out, delta, n, e, grad.stride(0), out.stride(0), delta.stride(0)),
        ROWS=DOT_ROWS,
        DEPTH=tiles.depth,
        UPCAST=_upcast(query),
    )
    key_tiles, row_tiles = _ceil(m, tiles.keys), _ceil(n, tiles.rows)
    weights, slopes = query.new_empty(2, clips, n, _width(key))
    kernels.score_gradients[key_tiles, row_tiles, clips](
        *(query, key, grad, value, lse, delta, weights, slopes, n, m, d, e),
        *(t.stride(0) for t in (query, key, grad, value, lse, delta, weights)),
        weights.stride(1),
        **_launch(tiles, query),
    )
    return weights[:, :, :m], slopes[:, :, :m]


def _clips(query: Tensor, key: Tensor, buffers: int) -> Iterator[slice]:
    """Groups of clips that share a strip: as many as leave each of them `STRIP_ROWS` rows, at least one."""
    b, n = query.shape[:2]
    return _slices(b, max(1, min(MAX_CLIPS, _map_rows(query, key, buffers) // min(n, STRIP_ROWS))))


def _rows(query: Tensor, key: Tensor, buffers: int) -> Iterator[slice]:
    """The strips of rows of a group of clips: all rows if they fit, else multiples of `ROW_STEP`, at least one."""
    b, n = query.shape[:2]
    most = _map_rows(query, key, buffers) // b
    return _slices(n, n if n <= most else max(ROW_STEP, most // ROW_STEP * ROW_STEP))


def _map_rows(query: Tensor, key: Tensor, buffers: int) -> int:
    """How many rows of `buffers` maps fit a strip."""
    return STRIP_BYTES // (buffers * _width(key) * query.element_size())


def _width(key: Tensor) -> int:
    """The length of a strip's row in memory: M and what makes every row start at a multiple of 16 numbers."""
    return _ceil(key.shape[1], 16) * 16


def _slices(length: int, size: int) -> Iterator[slice]:
    """0 to length in steps of `size`."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _fitting(tables: dict[int, tuple[Tiles, ...]], tensor: Tensor) -> Tiles:
    """The first tiles of the table whose loads fit the device, or its last."""
    table = tables[tensor.element_size()]
    if not tensor.is_cuda:
        return table[0]
    limit = torch.cuda.get_device_properties(tensor.device).shared_memory_per_block_optin
    return next((tiles for tiles in table if tiles.shared_bytes(tensor.element_size()) <= limit), table[-1])


def _launch(tiles: Tiles, tensor: Tensor) -> dict[str, Any]:
    """The keyword arguments of a kernel's launch."""
    constants = {"ROWS": tiles.rows, "KEYS": tiles.keys, "DEPTH": tiles.depth, "UPCAST": _upcast(tensor)}
    return constants | {"num_warps": tiles.warps, "num_stages": tiles.stages}


def _upcast(tensor: Tensor) -> bool:
    """Whether a product's factors are made float32 first: the interpreter's product of bfloat16 matrices is wrong."""
    return INTERPRETED and tensor.dtype == torch.bfloat16


def _ceil(length: int, step: int) -> int:
    """How many steps cover the length."""
    return -(-length // step)


# ---- what the compiler, vmap and autograd know of the two operations


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    b, n = query.shape[:2]
    return query.new_empty(b, n, value.shape[2]), query.new_empty(b, n, dtype=torch.float32)


@_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


@_forward.register_vmap
def _(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[Any, Any]:
    return unfold(_forward(*fold(inputs, in_dims, info.batch_size)), info.batch_size), (0, 0)


@_backward.register_vmap
def _(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[Any, Any]:
    return unfold(_backward(*fold(inputs, in_dims, info.batch_size)), info.batch_size), (0, 0, 0)


_OPERATION = Operation(_forward, _backward, partial(stored, scale=1.0), needs_output=True)
