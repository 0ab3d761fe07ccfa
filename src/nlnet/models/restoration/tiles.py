"""Large images, restored in tiles that see as much of their surroundings as matters."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nlnet.models.restoration.denoiser import Denoiser


def restore(net: Denoiser, images: Tensor, *, tile: int | None = None, overlap: int | None = None) -> Tensor:
    """The restored images (B, C, H, W), not clipped: whole, or in tiles where a side is longer than `tile`.

    A tile is `tile` x `tile` pixels of the result. The network is given these and `overlap` more on each side, as far
    as the image goes. With the network's reach for overlap the result is that of the whole image, to rounding; with
    less, pixels near the edges of tiles differ. A tile begins at an even row and column of the image, as networks
    that halve the resolution need it.

    Args:
        net: in evaluation mode.
        images: in [0, 1].
        tile: side of a tile, even; None for the whole image at once.
        overlap: pixels beyond a tile; None for the network's reach. A network that looks everywhere has none: there it
            is 32, and tiles are an approximation.
    """
    height, width = images.shape[2:]
    if tile is None or max(height, width) <= tile:
        return net(images)
    margin = overlap if overlap is not None else 32 if net.reach is None else net.reach
    margin += margin % 2
    restored = torch.empty_like(images)
    for rows, seen_rows in _tiles(height, tile, margin):
        for columns, seen_columns in _tiles(width, tile, margin):
            found = net(images[:, :, seen_rows, seen_columns])
            top, left = rows.start - seen_rows.start, columns.start - seen_columns.start
            size = (rows.stop - rows.start, columns.stop - columns.start)
            restored[:, :, rows, columns] = found[:, :, top : top + size[0], left : left + size[1]]
    return restored


def _tiles(length: int, tile: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """The tiles along one axis, and what the network is given of it for each."""
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        yield slice(start, stop), slice(max(0, start - margin), min(length, stop + margin))
