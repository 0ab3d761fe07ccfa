"""Whether the map explains the decision: the scores without the values of the most attended keys."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlnet.attention.capture import evaluating
from nlnet.attention.maps import attention_rows
from nlnet.attention.measures import weights
from nlnet.layers import NonLocalBlock


@dataclass(frozen=True)
class Deletion:
    """Logits (K,) of a clip: as it is, without the most attended keys of every block, and without random ones."""

    removed: dict[str, int]
    """How many keys of each block."""
    whole: np.ndarray
    without_top: np.ndarray
    without_random: np.ndarray
    """(draws, K)."""


def delete(
    net: nn.Module,
    inputs: Tensor,
    blocks: Mapping[str, NonLocalBlock],
    inputs_of: Mapping[str, Tensor],
    positions: Mapping[str, np.ndarray],
    *,
    share: float = 1 / 16,
    draws: int = 8,
    seed: int = 0,
) -> Deletion:
    """What a network says of a clip when, in all blocks together, the values g(x_j) of some keys are zero.

    In all of them together, since what one block loses another one may have seen.

    Args:
        net: the network.
        inputs: (1, 3, T, H, W), what it sees.
        blocks: its non-local blocks by name.
        inputs_of: what comes into each of them for `inputs`; see `nlnet.attention.capture.look`.
        positions: of each block those whose mean attention decides which keys are the most attended.
        share: of the keys of each block that are taken away, at least one.
        draws: how often as many are drawn at random, from the others.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    order = {n: np.argsort(-mean_attention(b, inputs_of[n], positions[n]), kind="stable") for n, b in blocks.items()}
    removed = {name: max(1, round(share * len(keys))) for name, keys in order.items()}
    top = {name: keys[: removed[name]] for name, keys in order.items()}
    others = {name: keys[removed[name] :] for name, keys in order.items()}
    drawn = [
        {name: rng.choice(keys, min(removed[name], len(keys)), replace=False) for name, keys in others.items()}
        for _ in range(draws)
    ]
    with evaluating(net), torch.no_grad():
        whole = _logits(net(inputs))
        top_gone, *random_gone = (_without(net, inputs, blocks, keys) for keys in (top, *drawn))
    return Deletion(removed, whole, top_gone, np.stack(random_gone))


def mean_attention(block: NonLocalBlock, x: Tensor, positions: np.ndarray) -> np.ndarray:
    """The mean of the positions' weights over all keys of the map, zero where a position does not meet a key."""
    shape = key_map(block, x)
    total = np.zeros(int(np.prod(shape)))
    for part, rows in attention_rows(block, x, positions):
        for position, row in zip(positions[part], rows, strict=True):
            total[keys_of(block, x, int(position))] += weights(row)
    return total / max(len(positions), 1)


def key_map(block: NonLocalBlock, x: Tensor) -> tuple[int, ...]:
    """The lengths of the map of all keys, of which each position meets some."""
    size = tuple(x.shape[2:])
    if block.axes == "time":
        return size
    return (*size[:-2], *block.key_size(size)[-2:])


def keys_of(block: NonLocalBlock, x: Tensor, position: int) -> np.ndarray:
    """Which keys of that map a position meets, in the order of its row."""
    shape = key_map(block, x)
    everything = np.arange(int(np.prod(shape)))
    regions = block.regions(x.shape[2:])
    if block.axes == "time":
        return everything[position % regions :: regions]
    per_region = len(everything) // regions
    region = position // (int(np.prod(x.shape[2:])) // regions)
    return everything[region * per_region : (region + 1) * per_region]


def _without(
    net: nn.Module, inputs: Tensor, blocks: Mapping[str, NonLocalBlock], keys: Mapping[str, np.ndarray]
) -> np.ndarray:
    with ExitStack() as stack:
        for name, block in blocks.items():
            stack.enter_context(_zeroed(block, keys[name]))
        return _logits(net(inputs))


@contextmanager
def _zeroed(block: NonLocalBlock, keys: np.ndarray) -> Iterator[None]:
    """`block` with g(x_j) = 0 for these keys. Where keys are pooled after g, for what each of them is pooled from."""

    def zero(_module: nn.Module, _given: Any, g: Tensor) -> Tensor:
        size = g.shape[2:]
        pooled = block.subsample and block.subsample_order == "after"
        shape = (*size[:-2], *(max(n // 2, 1) if pooled else n for n in size[-2:]))
        kept = torch.ones(int(np.prod(shape)), dtype=g.dtype, device=g.device)
        kept[torch.from_numpy(keys)] = 0
        mask = kept.view(1, 1, *shape)
        for axis, (whole, part) in enumerate(zip(size, shape, strict=True)):
            if whole != part:  # a row or column that the pool leaves out belongs to none
                mask = mask.repeat_interleave(2, axis + 2)
                mask = torch.cat([mask, torch.ones_like(mask.narrow(axis + 2, 0, whole - 2 * part))], axis + 2)
        return g * mask

    hook = block.g.register_forward_hook(zero)
    try:
        yield
    finally:
        hook.remove()


def _logits(output: Tensor) -> np.ndarray:
    return output[0].float().cpu().numpy()
