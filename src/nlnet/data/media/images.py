"""Encoded images: their size, and their pixels.

Upright means the same wherever an image is read: as its EXIF orientation says. Annotations are taken to be of the
upright image, unless their width and height are only those of the stored pixels.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image

from nlnet import limits
from nlnet.data.media.suffixes import IMAGE_FORMATS, READ_ALWAYS, format_of
from nlnet.errors import UserError, nearest

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTERS = (5, 6, 7, 8)

# PIL's own warning of large pictures; those beyond the limit are refused here
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# and of what is odd beside the pixels, such as an EXIF that is cut short
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageError(ValueError):
    """An image that cannot be used; `cause` is a short phrase to count by, such as "undecodable"."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause


@contextmanager
def counted() -> Iterator[None]:
    """Turns whatever an image library raises into an ImageError: what a damaged file makes it raise has no bounds."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        raise ImageError("too large", str(limits.PIXELS.excess(amount=int(pixels[1]) if pixels else None))) from error
    except limits.TooLarge as error:
        raise ImageError(error.cause, str(error)) from error
    except UserError:  # a limit that is set to no number
        raise
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ImageError("undecodable", what) from error


def check_formats(names: Sequence[str], key: str) -> tuple[str, ...]:
    """Names of formats as they are kept, those that are always read among them. Raises UserError for an unknown one."""
    given = [names] if isinstance(names, str) else list(names)
    chosen = [format_of(f".{str(name).lower().removeprefix('.')}") or str(name) for name in given]
    for name in chosen:
        if name not in IMAGE_FORMATS:
            raise UserError(f"{key}={given}: no such format; {nearest(name, IMAGE_FORMATS)}")
    return tuple(dict.fromkeys((*READ_ALWAYS, *chosen)))


def open_image(data: bytes, formats: Sequence[str] = READ_ALWAYS) -> Image.Image:
    """The image with its header read and its pixels not yet. Raises ImageError.

    Of these formats only: every one that a library can read is one more way to attack it.
    """
    with counted():
        if (there := _format_in(data)) and there not in formats:
            raise ImageError("format", f"a {there} image; convert it, or {naming(there)}")
        if Image.MAX_IMAGE_PIXELS and limits.PIXELS.most > Image.MAX_IMAGE_PIXELS:  # somebody has raised ours
            Image.MAX_IMAGE_PIXELS = limits.PIXELS.most
        try:
            image = Image.open(io.BytesIO(data), formats=[IMAGE_FORMATS[name].pillow for name in formats])
        except Image.UnidentifiedImageError as error:
            raise ImageError("undecodable", f"none of {', '.join(formats)}") from error
        pixels, most = image.width * image.height, limits.PIXELS.most
        if pixels > (most * limits.SCALED if _is_jpeg(image) else most):
            raise ImageError("too large", f"{image.width} x {image.height}; {limits.PIXELS.excess(amount=pixels)}")
        return image


def decode_image(
    data: bytes,
    width: int,
    height: int,
    *,
    formats: Sequence[str] = READ_ALWAYS,
    needed: tuple[int, int] | None = None,
) -> Image.Image:
    """The RGB image that annotations of a `width` x `height` image refer to; gray images get three equal channels.

    It is upright where the upright image has this size, and as it is stored where only the stored one has. Of 16 bits
    the upper 8 are kept. A JPEG with more pixels than the limit is scaled down while it is decoded, to no less than
    `needed` (width, height). Raises ImageError.
    """
    image = open_image(data, formats)
    stored, told = image.size, (width, height)
    if told not in (stored, stored[::-1]):
        size = f"{image.width} x {image.height}"
        raise ImageError("mismatch", f"the image has {size} pixels, its annotations are of {width} x {height}")
    _scale(image, needed)
    orientation = _orientation(image)
    upright = stored[::-1] if orientation in _QUARTERS else stored
    if told == upright:
        return _to_rgb(_turned(image, orientation))
    if told == stored:
        return _to_rgb(image)
    size = f"{width} x {height}"
    raise ImageError("mismatch", f"{stored[0]} x {stored[1]}, no EXIF turns it, and its annotations are of {size}")


def upright_image(data: bytes, formats: Sequence[str] = READ_ALWAYS) -> Image.Image:
    """The whole image in RGB as it is meant to be seen: turned as its EXIF says. Raises ImageError."""
    image = open_image(data, formats)
    _scale(image, None)
    return _to_rgb(_turned(image, _orientation(image)))


def member_suffix(image: Image.Image) -> str | None:
    """Of the member of a shard that may hold this file as it is; None where it has to become another one."""
    return "jpg" if _is_jpeg(image) else {"PNG": "png"}.get(str(image.format))


def naming(name: str) -> str:
    """What to set to have a format read."""
    return f"name it in data.image_formats=[{','.join((*READ_ALWAYS, name))}] (image_formats= of prepare and predict)"


def _is_jpeg(image: Image.Image) -> bool:
    """A file of several pictures (MPO: stereo cameras, phones) is a JPEG, too; its first one counts."""
    return image.format in ("JPEG", "MPO")


def _scale(image: Image.Image, needed: tuple[int, int] | None) -> None:
    """Has a JPEG beyond the limit decoded at 1/2, 1/4 or 1/8, whichever way it is turned afterwards."""
    with counted():
        stored = f"{image.width} x {image.height}"
        if needed and _is_jpeg(image) and image.width * image.height > limits.PIXELS.most:
            short, long = sorted(needed)
            image.draft(None, (long, short) if image.width >= image.height else (short, long))  # type: ignore[arg-type]
        if (pixels := image.width * image.height) > limits.PIXELS.most:
            raise ImageError("too large", f"{stored}; {limits.PIXELS.excess(amount=pixels)}")


def _orientation(image: Image.Image) -> int:
    """As EXIF numbers them; 1, as it is stored, where nothing is said or nothing that can be read."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a photograph is no worse for it; what is wrong with its pixels is found when they are read
        return 1
    return int(found) if found in _TURNS else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    with counted():
        return image if orientation == 1 else image.transpose(_TURNS[orientation])


def _to_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel. Pillow would make everything above 255 white."""
    with counted():
        if image.mode == "F":
            raise ImageError("pixels", "floating point pixels; save the image with 8 bits a channel")
        if not image.mode.startswith("I"):
            return image.convert("RGB")
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ImageError("pixels", "pixels of 32 bits; save the image with 8 bits a channel")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _format_in(data: bytes) -> str | None:
    """Our name of the format that the first bytes are of, for the message about one that is not read."""
    starts = {b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff", b"II+\0": "tiff", b"MM\0+": "tiff"}
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for start, name in starts.items() if data.startswith(start)), None)
