"""From the bytes of an image file to the pixels that are restored; what would lose something on the way is refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from nlnet.data.media.images import ImageError, open_image, upright_image
from nlnet.data.media.suffixes import READ_ALWAYS

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_PNG, _DEPTH = b"\x89PNG\r\n\x1a\n", 24  # the place of a PNG's bits a channel


def check_pixels(data: bytes, formats: Sequence[str] = READ_ALWAYS) -> Image.Image:
    """The image with its header read, if all of it can be had in 8 bits a channel: what lies under a transparent
    pixel is nobody's picture, and noise of a few levels is gone where 16 bits become 8. Raises ImageError."""
    image = open_image(data, formats)
    if image.mode in _ALPHA or "transparency" in image.info:
        raise ImageError("pixels", f"it has transparency ({image.mode}); save it without an alpha channel")
    if image.mode.startswith(("I", "F")) or (data.startswith(_PNG) and data[_DEPTH] > 8):
        raise ImageError("pixels", "it has more than 8 bits a channel; save it with 8, scaled as you mean it")
    return image


def read_pixels(data: bytes, channels: int, formats: Sequence[str] = READ_ALWAYS) -> np.ndarray:
    """The upright image (C, H, W) in uint8; color becomes gray by ITU-R 601, gray three equal channels.

    Raises ImageError.
    """
    check_pixels(data, formats)
    image: Any = upright_image(data, formats)
    if channels == 1:
        return np.asarray(image.convert("L"))[None]
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
