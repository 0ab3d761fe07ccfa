"""The Triton kernels of `nlnet.ops.triton.attention`; importing this file imports Triton.

Every matrix holds its channels side by side, (clip, row, channel), so a row is `depth` apart from the next; the strides
given are those between clips, and between rows of the map. Sums run in float32. The map is cut in tiles of ROWS queries
and KEYS keys; rows and keys beyond the end read the last one, and what they give is not stored, or only in columns that
nobody reads.
"""

# Triton gives a parameter's annotation a meaning of its own.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl


@triton.jit
def products(
    a, b, rows, columns, depth, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr
):
    """a_i . b_j for a (row, depth) and b (column, depth), DEPTH channels at a time: (ROWS, COLUMNS) in float32.

    UPCAST is for Triton's interpreter, whose product of bfloat16 matrices is wrong.
    """
    channels = tl.arange(0, DEPTH)
    a_tile = a + rows[:, None] * depth + channels[None, :]
    b_tile = b + columns[None, :] * depth + channels[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        # Channels beyond the end must read as 0: unlike rows and keys beyond it, they enter every sum.
        inside = channels < depth - start
        x = tl.load(a_tile, mask=inside[None, :], other=0.0)
        y = tl.load(b_tile, mask=inside[:, None], other=0.0)
        if UPCAST:
            x, y = x.to(tl.float32), y.to(tl.float32)
        # "ieee", because float32 must not be rounded to TF32; half precision is multiplied as it is.
        total = tl.dot(x, y, total, input_precision="ieee")
        a_tile += DEPTH
        b_tile += DEPTH
    return total


@triton.jit
def tile_softmax(
    query,
    key,
    weights,
    tops,
    sums,
    n,
    m,
    depth,
    query_clip,
    key_clip,
    weights_clip,
    weights_row,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DEPTH: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """exp(s_ij - top) for one tile of scores s_ij = query_i . key_j, with the tile's row maximum `top` and row sum.

    Grid (key tiles, row tiles, clips); tops and sums are (clip, key tile, row).
    """
    # int64, because a clip's offset in a batch of maps passes 2^31.
    tile, clip = tl.program_id(0), tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    keys = tile * KEYS + tl.arange(0, KEYS)
    # Clamped, so that the loads of the inner loop need a mask along the channels only.
    near, far = tl.minimum(rows, n - 1), tl.minimum(keys, m - 1)
    scores = products(query + clip * query_clip, key + clip * key_clip, near, far, depth, ROWS, KEYS, DEPTH, UPCAST)
    # What the clamp read twice must not count in the sums: exp(-inf) is 0.
    scores = tl.where(keys[None, :] < m, scores, -float("inf"))
    top = tl.max(scores, 1)
    # Relative to the tile's own maximum, so nothing overflows before the row's is known; every tile has a real key.
    exps = tl.exp(scores - top[:, None])
    inside = rows < n
    row_of_tile = (clip * tl.num_programs(0) + tile) * n + rows
    tl.store(tops + row_of_tile, top, mask=inside)
    tl.store(sums + row_of_tile, tl.sum(exps, 1), mask=inside)
    target = weights + clip * weights_clip + rows[:, None] * weights_row + keys[None, :]
    # Up to the padded end of a row in memory, a multiple of 16 numbers; beyond the last key they are 0.
    stored = inside[:, None] & (keys < weights_row)[None, :]
    tl.store(target, exps.to(weights.dtype.element_ty), mask=stored)


@triton.jit
def mix_tiles(
    weights, tops, sums, lse, n, tiles, weights_clip, weights_row, lse_clip, ROWS: tl.constexpr, KEYS: tl.constexpr
):
    """Turns the tiles of `tile_softmax` into the softmax of the whole row, and stores the row's log sum exp.

    Grid (row tiles, clips).
    """
    clip = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    tops += clip * tiles * n + rows
    sums += clip * tiles * n + rows
    top = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    # First pass: the row's maximum and sum, from a few numbers a tile. When the maximum rises, the sum so far shrinks.
    for tile in range(tiles):
        tile_top = tl.load(tops + tile * n, mask=inside, other=0.0)
        tile_sum = tl.load(sums + tile * n, mask=inside, other=1.0)
        higher = tl.maximum(top, tile_top)
        total = total * tl.exp(top - higher) + tile_sum * tl.exp(tile_top - higher)
        top = higher
    # All that the backward pass needs to compute a weight again from its score.
    tl.store(lse + clip * lse_clip + rows, top + tl.log(total), mask=inside)
    # Second pass: each tile was normalized by its own maximum, and gets its fraction of the whole row.
    for tile in range(tiles):
        fraction = tl.exp(tl.load(tops + tile * n, mask=inside, other=0.0) - top) / total
        keys = tile * KEYS + tl.arange(0, KEYS)
        target = weights + clip * weights_clip + rows[:, None] * weights_row + keys[None, :]
        stored = inside[:, None] & (keys < weights_row)[None, :]
        block = tl.load(target, mask=stored, other=0.0)
        tl.store(target, (block.to(tl.float32) * fraction[:, None]).to(block.dtype), mask=stored)


@triton.jit
def row_dots(
    a, b, dots, n, depth, a_clip, b_clip, dots_clip, ROWS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr
):
    """a_i . b_i, summed in the order of `products`: where b_i is some v_j, bit by bit, it equals a_i . v_j of a tile.

    So a query that attends to one key alone has scores of gradient 0, not of a rounding error. Grid (row tiles, clips).
    """
    clip = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    near = tl.minimum(rows, n - 1)
    # A whole square for its diagonal: the product unit sums in an order that a plain sum would not have.
    square = products(a + clip * a_clip, b + clip * b_clip, near, near, depth, ROWS, ROWS, DEPTH, UPCAST)
    diagonal = tl.where(rows[:, None] == rows[None, :], square, 0.0)
    tl.store(dots + clip * dots_clip + rows, tl.sum(diagonal, 1), mask=rows < n)


@triton.jit
def score_gradients(
    query,
    key,
    grad,
    value,
    lse,
    delta,
    weights,
    slopes,
    n,
    m,
    d,
    e,
    query_clip,
    key_clip,
    grad_clip,
    value_clip,
    lse_clip,
    delta_clip,
    weights_clip,
    weights_row,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DEPTH: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One tile of the weights p_ij = exp(s_ij - lse_i) and of the scores' gradient p_ij (grad_i . value_j - delta_i).

    Grid (key tiles, row tiles, clips); weights and slopes have the same strides.
    """
    clip = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    keys = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    near, far = tl.minimum(rows, n - 1), tl.minimum(keys, m - 1)
    target = clip * weights_clip + rows[:, None] * weights_row + keys[None, :]
    inside = (rows < n)[:, None] & (keys < weights_row)[None, :]
    scores = products(query + clip * query_clip, key + clip * key_clip, near, far, d, ROWS, KEYS, DEPTH, UPCAST)
    # No maximum to subtract: s_ij - lse_i is at most 0 but for rounding.
    p = tl.exp(scores - tl.load(lse + clip * lse_clip + near)[:, None])
    tl.store(weights + target, p.to(weights.dtype.element_ty), mask=inside)
    slope = products(grad + clip * grad_clip, value + clip * value_clip, near, far, e, ROWS, KEYS, DEPTH, UPCAST)
    # Read again rather than kept: the registers hold one tile of sums at a time.
    tl.debug_barrier()
    p = tl.load(weights + target, mask=inside, other=0.0).to(tl.float32)
    slope = p * (slope - tl.load(delta + clip * delta_clip + near)[:, None])
    tl.store(slopes + target, slope.to(slopes.dtype.element_ty), mask=inside)
