"""File name suffixes: which files are videos, wherever they lie, and which are images."""

from collections.abc import Iterable
from typing import NamedTuple

VIDEO_MEMBERS = (
    *("mp4", "webm", "mkv", "mov", "avi", "m4v", "qt", "f4v", "3gp", "3g2", "divx", "flv", "asf", "wmv", "ts", "mts"),
    *("m2ts", "mpg", "mpeg", "mpe", "m2v", "vob"),
)
"""The suffixes of videos in shards, the same as of files: those of the containers that are read."""
IMAGE_MEMBERS = ("jpg", "jpeg", "png")

VIDEO_FILES = frozenset(f".{suffix}" for suffix in VIDEO_MEMBERS)


class ImageFormat(NamedTuple):
    """Pillow's name of a format, and the suffixes of its files."""

    pillow: str
    suffixes: tuple[str, ...]


IMAGE_FORMATS = {
    "jpeg": ImageFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    "png": ImageFormat("PNG", (".png",)),
    "bmp": ImageFormat("BMP", (".bmp", ".dib")),
    "tiff": ImageFormat("TIFF", (".tif", ".tiff")),
    "webp": ImageFormat("WEBP", (".webp",)),
}
"""Our names of the formats of images."""

READ_ALWAYS = ("jpeg", "png")
"""The formats that are read unasked; the others where `image_formats` names them."""

NEVER_READ = frozenset({".avif", ".dcm", ".gif", ".heic", ".heif", ".jp2", ".npy", ".psd", ".svg"})


def format_of(suffix: str) -> str | None:
    """Our name of the format of files with this suffix."""
    return next((name for name, known in IMAGE_FORMATS.items() if suffix.lower() in known.suffixes), None)


def image_suffixes(formats: Iterable[str] = READ_ALWAYS) -> frozenset[str]:
    """Of the files of these formats."""
    return frozenset(suffix for name in formats for suffix in IMAGE_FORMATS[name].suffixes)
