"""Where positions and keys of a map are in the clip, in parts of its length and of its sides."""

import numpy as np

from nlnet.attention.maps import BlockMap


def position_places(block: BlockMap) -> np.ndarray:
    """(Q, 3): the middles of the stored positions along T, H, W, from 0 to 1."""
    t, h, w = np.unravel_index(block.positions, block.size)
    return (np.stack([t, h, w], 1) + 0.5) / np.array(block.size)


def key_places(block: BlockMap, number: int) -> np.ndarray:
    """(M, 3): the same for the keys that stored position `number` meets."""
    frames, height, width = block.size
    t, h, w = np.unravel_index(int(block.positions[number]), block.size)
    kt, kh, kw = (axis.ravel() for axis in np.meshgrid(*map(np.arange, block.keys), indexing="ij"))
    if block.meets == "location":
        return np.stack(
            [(kt + 0.5) / frames, np.full(len(kt), (h + 0.5) / height), np.full(len(kt), (w + 0.5) / width)], 1
        )
    first = 0 if block.meets == "all" else t // block.keys[0] * block.keys[0]
    return np.stack([(first + kt + 0.5) / frames, (kh + 0.5) / block.keys[1], (kw + 0.5) / block.keys[2]], 1)
