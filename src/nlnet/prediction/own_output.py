"""What a prediction writes is never what one looks at: pictures that are known again, and places that are refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from PIL.PngImagePlugin import PngInfo

from nlnet.data.media.suffixes import IMAGE_FORMATS, VIDEO_FILES, image_suffixes
from nlnet.errors import UserError
from nlnet.reading import open_regular
from nlnet.text import say

_MARK = ("Software", "nlnet-predict")
_HEAD = 512  # bytes of a PNG, where its texts are


class Picture(Protocol):
    """An image by its name, and where it is."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...


PictureT = TypeVar("PictureT", bound=Picture)


def check_out(out: str) -> None:
    """Raises UserError where the results would replace media, perhaps what is looked at."""
    if Path(out).suffix.lower() in image_suffixes(IMAGE_FORMATS) | VIDEO_FILES:
        raise UserError(f"out={out}: the results are JSON, and would replace an image or a video; give a .json file")


def pictures_folder(out: str, source: str) -> Path:
    """Where the pictures of a prediction go that is written to `out`: the folder beside it, of its name.

    Raises UserError as `check_out` does, and where that folder is the one that is looked at.
    """
    check_out(out)
    folder, given = Path(out).with_suffix(""), Path(source).expanduser()
    if folder.resolve() == (given.parent if given.is_file() else given).resolve():
        raise UserError(f"out={out}: the pictures would go to {folder}, among the images to look at; give another out")
    return folder


def without_own(images: Iterable[PictureT], pictures: Path, source: str) -> list[PictureT]:
    """`images` but for those that a prediction drew; how many these are is said.

    Args:
        images: what was found.
        pictures: where this prediction draws.
        source: where was looked, for messages.

    Raises UserError where nothing is left.
    """
    found = list(images)
    own = [image for image in found if _is_own(image.path, pictures)]
    if own and len(own) == len(found):
        raise UserError(f"source={source}: nothing but pictures that a prediction drew; give the images themselves")
    if own:
        say(f"left out: {len(own)} pictures that a prediction drew, such as {own[0].name}")
    return [image for image in found if image not in own]


def mark() -> PngInfo:
    """What every picture that a prediction draws has in it, by which it is known wherever it lies."""
    info = PngInfo()
    info.add_text(*_MARK)
    return info


def _is_own(path: Path, pictures: Path) -> bool:
    if path.resolve().is_relative_to(pictures.resolve()):
        return True
    try:
        with open_regular(path) as file:
            return b"tEXt" + "\0".join(_MARK).encode() in file.read(_HEAD)
    except OSError:
        return False  # which is said when it is looked at
