"""What is wrong with a folder of images and masks, as far as the beginnings of its files tell, before a training."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from nlnet.data.media.images import ImageError
from nlnet.data.segmentation.layouts import Layout, Pair
from nlnet.data.segmentation.masks import check_picture, open_mask, read_mask
from nlnet.errors import UserError
from nlnet.reading import open_regular

_HEAD = 1 << 16  # bytes that hold the header of an image but for one with a long EXIF
_AT_ONCE = 16  # files that are looked at at a time: a file server answers slowly, and many requests as fast as one
_MASKS_READ = 16  # of a split, spread over it, whose numbers are looked at
_SHOWN = 5


class Sizes(NamedTuple):
    """Of a mask, which is that of its image, and the bytes of both files."""

    width: int
    height: int
    bytes: int


def check_pairs(pairs: Sequence[Pair], layout: Layout, folder: Path) -> list[Sizes]:
    """The sizes of every pair.

    The beginnings of all files are read, and a few masks as a whole. Raises UserError for files that are not there or
    cannot be used, and for masks of other sizes than their images or with numbers that are no labels, the first five of
    them by name.
    """
    read = {pairs[k].key for k in range(0, len(pairs), max(1, len(pairs) // _MASKS_READ))}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda pair: _look(pair, layout, whole=pair.key in read), pairs))
    if wrong := [problem for problem in found if isinstance(problem, str)]:
        more = [f"and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
        raise UserError(f"data.shards={folder}: {wrong[0]}", *wrong[1:_SHOWN], *more)
    return [sizes for sizes in found if isinstance(sizes, Sizes)]


def _look(pair: Pair, layout: Layout, *, whole: bool) -> Sizes | str:
    """The sizes of a pair, or what is wrong with it in a line that begins with the file."""
    path = pair.image
    try:
        width, height = check_picture(_read(pair.image))
        path = pair.mask
        mask = open_mask(_read(pair.mask), layout.palettes)
        if mask.size not in ((width, height), (height, width)):
            sizes = f"{mask.width} x {mask.height} pixels, and its image {pair.image} has {width} x {height}"
            return f"{pair.mask}: a mask of {sizes}"
        if whole:
            read_mask(_read(pair.mask, -1), layout)
        return Sizes(*mask.size, pair.image.stat().st_size + pair.mask.stat().st_size)
    except ImageError as error:
        return f"{path}: {error}"
    except OSError as error:
        return f"{path}: {error.strerror or error}"


def _read(path: Path, count: int = _HEAD) -> bytes:
    with open_regular(path) as file:
        return file.read(count)
