"""Images as people have them: bits, several pictures in a file, turned, large, damaged, in other formats."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nlnet import limits
from nlnet.data.media.images import (
    ImageError,
    check_formats,
    counted,
    decode_image,
    member_suffix,
    open_image,
    upright_image,
)
from nlnet.errors import UserError

ALL = ("jpeg", "png", "bmp", "tiff", "webp")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def slope(width: int, height: int, most: int = 255) -> np.ndarray:
    return (np.mgrid[0:height, 0:width].sum(0) * most // (width + height)).astype(np.uint16 if most > 255 else np.uint8)


def photo(width: int = 60, height: int = 40) -> Image.Image:
    red, blue = slope(width, height), slope(height, width).T
    return Image.fromarray(np.stack([red, 255 - red, blue], 2))


@pytest.mark.parametrize(("kind", "most"), [("PNG", 65535), ("PNG", 4095), ("TIFF", 65535), ("PNG", 300)])
def test_gray_of_16_bits_keeps_its_upper_8(kind: str, most: int) -> None:
    values = slope(64, 48, most)
    data = encoded(Image.fromarray(values), kind)
    wanted = np.floor(values.astype(np.float64) / 256)
    for image in (decode_image(data, 64, 48, formats=ALL), upright_image(data, ALL)):
        assert np.array_equal(np.asarray(image), np.repeat(wanted[..., None], 3, 2))


def test_gray_of_16_bits_is_as_color_of_16_bits(media: Path) -> None:
    """The case, where it is here: not white."""
    for name in ("g16.png", "g12in16.png"):
        path = media.parent / "cases" / "coco" / "grey16_png" / name
        if not path.is_file():
            pytest.skip("the case is not here")
        values = np.asarray(Image.open(path))
        pixels = np.asarray(decode_image(path.read_bytes(), 128, 96))
        assert np.array_equal(pixels[..., 0], values >> 8)
        assert len(np.unique(pixels)) > 5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    image = decode_image(encoded(photo().convert(mode), kind), 60, 40)
    assert (image.mode, image.size) == ("RGB", (60, 40))


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70000), ("I", -1)])
def test_pixels_that_are_no_picture_are_counted(mode: str, value: float) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(encoded(Image.new(mode, (8, 8), value), "TIFF"), 8, 8, formats=ALL)
    assert caught.value.cause == "pixels"


def test_a_file_of_several_pictures_is_its_first_one() -> None:
    other = Image.new("RGB", (60, 40))
    data = encoded(photo(), "MPO", save_all=True, append_images=[other], quality=95)
    assert open_image(data).format == "MPO"
    assert member_suffix(open_image(data)) == "jpg"
    assert np.abs(np.asarray(decode_image(data, 60, 40), float) - np.asarray(photo(), float)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_training_and_prediction_mean_the_same_upright(orientation: int, kind: str) -> None:
    """All eight ways to hold a camera, also those that leave the size as it is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.asarray(photo())
    data = encoded(photo(), kind, exif=exif)
    turned = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2)}
    turned |= {6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored)}
    wanted = turned[orientation]
    height, width = wanted.shape[:2]
    assert np.array_equal(np.asarray(upright_image(data, ALL)), wanted)
    assert np.array_equal(np.asarray(decode_image(data, width, height, formats=ALL)), wanted)
    if orientation >= 5 and kind == "PNG":  # annotated as it is stored
        assert np.array_equal(np.asarray(decode_image(data, 60, 40, formats=ALL)), stored)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # PIL's, which a run does not show
def test_an_exif_that_cannot_be_read_harms_nothing() -> None:
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40)
    assert upright_image(data).size == (60, 40)
    assert decode_image(data, 60, 40).size == (60, 40)


def test_a_large_jpeg_is_scaled_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.PIXELS.variable, "2400")
    exif = Image.Exif()
    exif[0x0112] = 6
    small = encoded(photo(120, 80), "JPEG", quality=95, exif=exif)
    for needed, size in (((20, 30), (20, 30)), ((21, 32), (40, 60)), ((1, 1), (10, 15))):
        image = decode_image(small, 80, 120, needed=needed)
        assert image.size == size
        whole = np.asarray(photo(120, 80).transpose(Image.Transpose.ROTATE_270).resize(size), float)
        assert np.abs(np.asarray(image, float) - whole).mean() < 8
    words = (
        r"too large: .*a picture of 9,600 pixels, at most 2,400 are allowed; if you trust it, set NLNET_MAX_PIXELS=9600"
    )
    for refused in (
        lambda: decode_image(small, 80, 120, needed=(80, 120)),
        lambda: decode_image(encoded(photo(120, 80), "PNG"), 120, 80, needed=(1, 1)),
        lambda: upright_image(small),
    ):
        with pytest.raises(ImageError, match=words):
            refused()
    with pytest.raises(ImageError, match="set NLNET_MAX_PIXELS=20000"):  # beyond 8 times
        open_image(encoded(photo(200, 100), "JPEG"))
    monkeypatch.setenv(limits.PIXELS.variable, "9600")
    assert upright_image(small).size == (80, 120)


def test_a_limit_above_that_of_the_library_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encoded(photo(60, 40), "PNG")
    monkeypatch.setenv(limits.PIXELS.variable, "2400")
    assert decode_image(data, 60, 40).size == (60, 40)


@pytest.mark.parametrize(("name", "kind"), [("bmp", "BMP"), ("tiff", "TIFF"), ("webp", "WEBP")])
def test_other_formats_are_read_where_they_are_named(name: str, kind: str) -> None:
    data = encoded(photo(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    with pytest.raises(ImageError, match=rf"format: a {name} image; .*data.image_formats=\[jpeg,png,{name}\]"):
        decode_image(data, 60, 40)
    read = decode_image(data, 60, 40, formats=check_formats([name], "data.image_formats"))
    assert np.array_equal(np.asarray(read), np.asarray(photo()))
    assert member_suffix(open_image(data, ALL)) is None


def test_names_of_formats() -> None:
    assert check_formats(["jpeg", "png"], "x") == ("jpeg", "png")
    assert check_formats(["TIF", ".bmp", "jpg"], "x") == ("jpeg", "png", "tiff", "bmp")
    assert check_formats("webp", "x") == ("jpeg", "png", "webp")
    with pytest.raises(UserError, match=r"data.image_formats=\['gif'\]: no such format; .*tiff"):
        check_formats(["gif"], "data.image_formats")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def test_whatever_the_library_raises_is_a_cause() -> None:
    """Every prefix of files, every byte of their heads changed, and chunks that unpack to more than they should."""
    text = zlib.compress(bytes(1 << 23), 9)
    good = encoded(photo(16, 12), "PNG")
    files = [
        good[:33] + _chunk(b"zTXt", b"k\0\0" + text) + good[33:],
        good[:33] + _chunk(b"iTXt", b"k\0\1\0\0\0" + text),
    ]
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        whole = encoded(photo(16, 12), kind)
        files += [whole[:cut] for cut in range(0, len(whole), max(1, len(whole) // 40))]
        files += [whole[:k] + bytes([whole[k] ^ 0xFF]) + whole[k + 1 :] for k in range(0, min(len(whole), 600), 3)]
    causes, messages = set(), []
    for data in files:
        for read in (lambda d: decode_image(d, 16, 12, formats=ALL), lambda d: upright_image(d, ALL)):
            try:
                assert read(data).mode == "RGB"
            except ImageError as error:
                causes.add(error.cause)
                messages.append(str(error))
    assert all(message.isprintable() for message in messages)
    assert {"undecodable", "mismatch"} <= causes


@pytest.mark.parametrize(
    ("raised", "cause"),
    [
        (Image.DecompressionBombError("Image size (400000000 pixels) exceeds limit of 1"), "too large"),
        (RecursionError("deep"), "undecodable"),
        (zlib.error("Error -3"), "undecodable"),
        (MemoryError(), "undecodable"),
        (AttributeError("x"), "undecodable"),
    ],
)
def test_every_exception_has_a_cause(raised: Exception, cause: str) -> None:
    with pytest.raises(ImageError) as caught, counted():
        raise raised
    assert caught.value.cause == cause
    assert (cause != "too large") or "set NLNET_MAX_PIXELS=400000000" in str(caught.value)
