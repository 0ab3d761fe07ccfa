"""Encoded images: their size, and their pixels."""

import io
import struct
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from nlnet import limits
from nlnet.data.media.suffixes import IMAGE_FORMATS

UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    EOFError,
    MemoryError,
)
"""What a damaged image makes the decoder raise."""


# PIL's own warning of large pictures; those beyond the limit are refused here
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(ValueError):
    """An image that cannot be used; `cause` is a short phrase to count by, such as "undecodable"."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause


def open_image(data: bytes) -> Image.Image:
    """The image with its header read and its pixels not yet. Raises ImageError.

    JPEG and PNG only: every format that a library can read is one more way to attack it.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=list(IMAGE_FORMATS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too large", str(error)) from error
    except UNREADABLE as error:
        raise ImageError("undecodable", f"neither a JPEG nor a PNG image ({error})") from error
    try:
        limits.PIXELS.check(image.width * image.height)
    except limits.TooLarge as error:
        raise ImageError("too large", f"{image.width} x {image.height} pixels; {error}") from error
    return image


def decode_image(data: bytes, width: int, height: int) -> Image.Image:
    """The RGB image that annotations of a `width` x `height` image refer to; gray images get three equal channels.

    Annotations refer to the stored pixels, as COCO's do: an EXIF orientation is not carried out. But where the stored
    image has another size and the turned one has this, they were made on the turned one, and it is turned.
    Raises ImageError.
    """
    image = open_image(data)
    try:
        if image.size == (width, height):
            return image.convert("RGB")
        if image.size == (height, width):
            turned = ImageOps.exif_transpose(image)
            if turned.size == (width, height):
                return turned.convert("RGB")
    except UNREADABLE as error:
        raise ImageError("undecodable", str(error)) from error
    size = f"{image.width} x {image.height}"
    raise ImageError("mismatch", f"the image has {size} pixels, its annotations are of {width} x {height}")
