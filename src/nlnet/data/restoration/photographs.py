"""The built-in photographs: those in the wheel of scikit-image, some to train on and four that are held out."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from nlnet.errors import UserError

DATASET = "photographs"

TRAIN = (
    "brick.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
)
HELD_OUT = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png")
"""What a demo is scored on, and never trained on."""


def build(folder: Path) -> None:
    """Copy the photographs into `folder`/train and `folder`/val.

    Raises UserError where scikit-image is not installed, or has them no more.
    """
    source = _installed()
    for split, names in (("train", TRAIN), ("val", HELD_OUT)):
        (folder / split).mkdir(parents=True)
        for name in names:
            if not (source / name).is_file():
                raise UserError(f"{source}: there is no {name}; this release of scikit-image comes without photographs")
            shutil.copyfile(source / name, folder / split / name)


def _installed() -> Path:
    """The folder of data in the installed package, which need not be imported for it."""
    found = find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "the built-in photographs are scikit-image's, which is not installed: pip install 'nlnet[restoration]';"
            " or give images of your own with data.shards=FOLDER"
        )
    return Path(found.submodule_search_locations[0]) / "data"
