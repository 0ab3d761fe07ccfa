"""Images and masks from the bytes of their files: what is read, and what is refused because it is hardly meant."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from nlnet.data.media.images import ImageError, counted, decode_image, open_image
from nlnet.data.media.suffixes import READ_ALWAYS
from nlnet.data.segmentation.layouts import UNKNOWN, Layout

_PNG = b"\x89PNG\r\n\x1a\n"
_DEPTH = 24  # the byte of a PNG that says how many bits a channel has


def check_picture(data: bytes, formats: Sequence[str] = READ_ALWAYS) -> tuple[int, int]:
    """(width, height) as stored of a photograph: 8 bits a channel, gray or colors, no transparency. Raises ImageError.

    The beginning of the file is enough.
    """
    image = open_image(data, formats)
    if _bits(data) == 16 or image.mode.startswith(("I", "F")):
        raise ImageError("pixels", "16 bits a channel, and networks are trained on 8; save it with 8")
    if "A" in image.mode or "transparency" in image.info:
        raise ImageError("pixels", f"an image with transparency ({image.mode}); save it as RGB, on a background")
    return image.size


def read_picture(data: bytes, width: int, height: int) -> Image.Image:
    """The RGB image that a mask of `width` x `height` is of; see `decode_image`. Raises ImageError."""
    check_picture(data)
    return decode_image(data, width, height)


def open_mask(data: bytes, palettes: bool) -> Image.Image:
    """A mask, its pixels not read yet: a PNG whose numbers are the classes. Raises ImageError.

    `palettes` are those of VOC: each number has a color, and is what counts. Where numbers are expected, a palette is
    most likely the picture of a mask that is meant for eyes.
    """
    image = open_image(data, ("png",))
    if image.mode == "P":
        if not palettes:
            raise ImageError("mask", "a palette image, and here masks are gray images of ids; give the masks with ids")
        return image
    if image.mode != "L" or _bits(data) != 8:
        kind = f"{_bits(data)} bits, {image.mode}"
        wanted = "8-bit gray or palette" if palettes else "8-bit gray"
        raise ImageError("mask", f"not one number a pixel in 8 bits ({kind}); masks are {wanted} images of ids")
    return image


def read_mask(data: bytes, layout: Layout) -> np.ndarray:
    """The labels (H, W) uint8 of a mask, `IGNORED` where a pixel has none. Raises ImageError for other numbers."""
    image = open_mask(data, layout.palettes)
    with counted():
        numbers = np.asarray(image)
    labels = layout.table[numbers]
    if (wrong := labels == UNKNOWN).any():
        y, x = np.argwhere(wrong)[0].tolist()
        known = f"{layout.title} has {len(layout.classes)} classes"
        raise ImageError("label", f"the number {numbers[y, x]} at column {x}, row {y} is no label; {known}")
    return labels


def _bits(data: bytes) -> int:
    return data[_DEPTH] if data.startswith(_PNG) and len(data) > _DEPTH else 8
