"""Rows of a block's attention map for a grid of positions, in bytes, with their strongest links."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nlnet.layers import NonLocalBlock
from nlnet.layers.positions import split

LEVELS = 255
_ENOUGH, _FEW = 7, 4  # positions along a side, and frames, that are kept as long as they can be
_AT_ONCE = 1 << 24  # numbers of the map that are computed together


@dataclass(frozen=True)
class BlockMap:
    """f(x_i, x_j) / C(x) of one block on one clip, for Q positions i and the M keys j that each of them meets.

    A row is stored as bytes q between its own least and greatest value: f = low + (high - low) q / 255, off by at most
    half a step of (high - low) / 255.
    """

    name: str
    pairwise: str
    size: tuple[int, int, int]
    """T, H, W of the map; T is 1 for an image."""
    keys: tuple[int, int, int]
    """The keys of one position, along T, H and W: M is their product."""
    meets: str
    """"all" positions, those of one "frame", of one "location" over time, or of one "group" of frames."""
    step: tuple[int, int, int]
    """Positions i are those at every `step`-th frame, row and column, beginning with the first."""
    positions: np.ndarray
    """(Q,) i = (t H + h) W + w."""
    rows: np.ndarray
    """(Q, M) uint8."""
    low: np.ndarray
    """(Q,) float32."""
    high: np.ndarray
    """(Q,) float32."""
    links: np.ndarray
    """(Q, L) the keys of the L greatest values, greatest first."""
    values: np.ndarray
    """(Q, L) float32, those values as they were."""

    def row(self, number: int) -> np.ndarray:
        """Row `number` of the Q, as float32 (M,)."""
        low, high = self.low[number], self.high[number]
        return low + (high - low) * (self.rows[number].astype(np.float32) / LEVELS)

    def nearest(self, t: float, h: float, w: float) -> int:
        """The number of the stored position that is nearest to this one."""
        grid = [len(range(0, n, s)) for n, s in zip(self.size, self.step, strict=True)]
        at = [min(round(x / s), n - 1) for x, s, n in zip((t, h, w), self.step, grid, strict=True)]
        return (at[0] * grid[1] + at[1]) * grid[2] + at[2]


def block_map(
    name: str, block: NonLocalBlock, x: Tensor, *, most_bytes: int = 1 << 20, links: int = 20, every: bool = False
) -> BlockMap:
    """The map of a block for its input x (1, C, [T, H,] W), with as many rows as fit into `most_bytes`.

    All positions where they fit or with `every`, otherwise those of a grid that gets wider until they do.
    """
    size = sizes(x.shape[2:])
    keys = sizes(block.key_size(x.shape[2:]))
    count = math.prod(keys)
    step = (1, 1, 1) if every else _step(size, count, most_bytes)
    grid = [np.arange(0, n, s) for n, s in zip(size, step, strict=True)]
    t, h, w = np.meshgrid(*grid, indexing="ij")
    positions = ((t * size[1] + h) * size[2] + w).ravel()
    kept = min(links, count)
    rows = np.empty((len(positions), count), np.uint8)
    low, high = (np.empty(len(positions), np.float32) for _ in range(2))
    best, values = np.empty((len(positions), kept), np.int32), np.empty((len(positions), kept), np.float32)
    for part, exact in attention_rows(block, x, positions):
        low[part], high[part] = exact.min(1), exact.max(1)
        span = np.maximum(high[part] - low[part], np.finfo(np.float32).tiny)
        rows[part] = np.rint((exact - low[part][:, None]) / span[:, None] * LEVELS)
        best[part] = np.argsort(-exact, axis=1, kind="stable")[:, :kept]
        values[part] = np.take_along_axis(exact, best[part], axis=1)
    meets = _meets(block)
    return BlockMap(name, block.pairwise, size, keys, meets, step, positions, rows, low, high, best, values)


@torch.no_grad()
def attention_rows(block: NonLocalBlock, x: Tensor, positions: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parts of `positions`, by their places there, and their exact rows (P, M) in float32.

    What every row shares is computed once, and never more than some rows at a time are in memory.
    """
    query, key, _ = block.embed(x)
    regions, interleaved = block.regions(x.shape[2:]), block.axes == "time"
    query, key = (split(t, regions, interleaved=interleaved) for t in (query, key))
    length = math.prod(x.shape[2:]) // regions
    region, place = (positions % regions, positions // regions) if interleaved else divmod(positions, length)
    if regions > 1:  # which are many and small: several of them at once
        yield from _of_regions(block, query, key, region, place)
        return
    step = max(1, _AT_ONCE // key.shape[1])
    for first in range(0, len(positions), step):
        part = np.arange(first, min(first + step, len(positions)))
        yield part, _numbers(block.affinity(query[:, torch.from_numpy(place[part])], key))[0]


def _of_regions(
    block: NonLocalBlock, query: Tensor, key: Tensor, region: np.ndarray, place: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    order = np.argsort(region, kind="stable")
    step = max(1, _AT_ONCE // (query.shape[1] * key.shape[1]))
    for first in range(0, len(key), step):
        part = order[(region[order] >= first) & (region[order] < first + step)]
        if len(part):
            maps = block.affinity(query[first : first + step], key[first : first + step])
            yield part, _numbers(maps[torch.from_numpy(region[part] - first), torch.from_numpy(place[part])])


def sizes(size: tuple[int, ...] | torch.Size) -> tuple[int, int, int]:
    """The lengths of a map as T, H, W, 1 where it has no such axis."""
    whole = (1, 1, 1, *size)
    return whole[-3], whole[-2], whole[-1]


def _numbers(t: Tensor) -> np.ndarray:
    return t.float().cpu().numpy()


def _step(size: tuple[int, int, int], keys: int, most: int) -> tuple[int, int, int]:
    """The finest grid whose rows fit: wider in space first, where neighbors look at the same."""
    step = [1, 1, 1]
    while math.prod(-(-n // s) for n, s in zip(size, step, strict=True)) * keys > most and step != list(size):
        counts = [-(-n // s) for n, s in zip(size, step, strict=True)]
        in_space = max(counts[1:]) > _ENOUGH or (counts[0] <= _FEW and max(counts[1:]) > 1)
        for axis in (1, 2) if in_space else (0, 1, 2) if counts[0] == 1 else (0,):
            step[axis] = min(step[axis] + 1, size[axis])
    return step[0], step[1], step[2]


def _meets(block: NonLocalBlock) -> str:
    if block.temporal_group is not None:
        return "group"
    return {"spacetime": "all", "space": "frame", "time": "location"}[block.axes]
