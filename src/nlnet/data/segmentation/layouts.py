"""Where the data sets keep their images and masks, and what the numbers in their masks mean."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nlnet.data.media.suffixes import READ_ALWAYS, image_suffixes
from nlnet.data.segmentation import names
from nlnet.errors import UserError, nearest
from nlnet.reading import read_text

IGNORED = 255
"""The label of pixels that count neither in the loss nor in a metric."""
UNKNOWN = 254
"""What stands in a table for a number that masks must not have."""
MOST_CLASSES = 254
CLASS_FILE = "classes.txt"
SUFFIXES = tuple(sorted(image_suffixes(READ_ALWAYS)))


class Pair(NamedTuple):
    """An image and its mask, and the name of both below the folder."""

    key: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Layout:
    """How a data set's folder is read.

    Args:
        title: what messages call it.
        classes: the names of the labels.
        table: (256,) uint8, a mask's number -> label, `IGNORED`, or `UNKNOWN` where there is no such number.
        palettes: whether masks may be palette images, whose indices are the numbers.
        pairs: (folder, split) -> the images and masks of a split, in order.
        splits: the folder -> the names of its splits.
    """

    title: str
    classes: tuple[str, ...]
    table: np.ndarray
    palettes: bool
    pairs: Callable[[Path, str], Iterable[Pair]]
    splits: Callable[[Path], Sequence[str]]


def find_layout(folder: Path, dataset: str) -> Layout:
    """The layout of `folder`: a plain one where it has a `classes.txt`, else that of the data set.

    Raises UserError for another data set, and where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"data.shards={folder}: there is no such folder")
    if (folder / CLASS_FILE).is_file():
        return _plain(folder)
    if dataset not in _LAYOUTS:
        raise UserError(
            f"data.dataset={dataset}: {folder} has no {CLASS_FILE}, and no layout has this name;"
            f" {nearest(dataset, _LAYOUTS)}"
        )
    return _LAYOUTS[dataset]


def find_pairs(layout: Layout, folder: Path, split: str) -> list[Pair]:
    """The images and masks of a split. Raises UserError where it has none."""
    pairs = list(layout.pairs(folder, split))
    if not pairs:
        known = nearest(split, layout.splits(folder))
        raise UserError(f"data.shards={folder}: no images of the split {split} as {layout.title} has them; {known}")
    return pairs


def _plain(folder: Path) -> Layout:
    """`classes.txt`, a name a line; `images/SPLIT/**` and `masks/SPLIT/**.png` of the same names."""
    path = folder / CLASS_FILE
    classes = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise UserError(f"{path}: {len(classes)} classes; give 2 to {MOST_CLASSES}, the name of label 0 first")
    table = _table({k: k for k in range(len(classes))}, ignored=(IGNORED,))
    return Layout("a plain folder", classes, table, True, _plain_pairs, lambda root: _folders(root / "images"))


def _plain_pairs(folder: Path, split: str) -> Iterator[Pair]:
    return _beside(folder / "images" / split, folder / "masks" / split)


def _ade20k_pairs(folder: Path, split: str) -> Iterator[Pair]:
    name = {"train": "training", "val": "validation"}.get(split, split)
    return _beside(folder / "images" / name, folder / "annotations" / name)


def _beside(images: Path, masks: Path) -> Iterator[Pair]:
    for image in _images(images):
        name = image.relative_to(images).with_suffix("")
        yield Pair(str(name), image, masks / name.with_suffix(".png"))


def _cityscapes_pairs(folder: Path, split: str) -> Iterator[Pair]:
    root, end = folder / "leftImg8bit" / split, "_leftImg8bit"
    for image in _images(root):
        if image.stem.endswith(end):
            name = image.relative_to(root).with_name(image.stem.removesuffix(end))
            mask = folder / "gtFine" / split / name.with_name(f"{name.name}_gtFine_labelIds.png")
            yield Pair(str(name), image, mask)


def _voc_pairs(folder: Path, split: str) -> Iterator[Pair]:
    """`SegmentationClassAug` has more images than `SegmentationClass`, and is looked at first where it is there."""
    lists = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not lists.is_file():
        return
    masks = [folder / name for name in ("SegmentationClassAug", "SegmentationClass") if (folder / name).is_dir()]
    for name in read_text(lists).split():
        paths = [root / f"{name}.png" for root in masks] or [folder / "SegmentationClass" / f"{name}.png"]
        yield Pair(name, folder / "JPEGImages" / f"{name}.jpg", next((p for p in paths if p.is_file()), paths[0]))


def _images(root: Path) -> list[Path]:
    """All images below a folder, by name; not macOS' shadows of files."""
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _lists(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "ImageSets" / "Segmentation").glob("*.txt"))


def _table(label_of: Mapping[int, int], ignored: Iterable[int]) -> np.ndarray:
    table = np.full(256, UNKNOWN, np.uint8)
    for number in ignored:
        table[number] = IGNORED
    for number, label in label_of.items():
        table[number] = label
    return table


_LAYOUTS: Mapping[str, Layout] = {
    # cityscapesScripts' table of labels: 34 ids, of which 19 are trained on
    "cityscapes": Layout(
        "Cityscapes",
        names.CITYSCAPES,
        _table({number: label for label, number in enumerate(names.CITYSCAPES_IDS)}, ignored=range(34)),
        False,
        _cityscapes_pairs,
        lambda folder: _folders(folder / "leftImg8bit"),
    ),
    # 0 is "other objects", which the benchmark leaves out
    "ade20k": Layout(
        "ADE20K",
        names.ADE20K,
        _table({k + 1: k for k in range(len(names.ADE20K))}, ignored=(0,)),
        False,
        _ade20k_pairs,
        lambda folder: _folders(folder / "images"),
    ),
    "voc": Layout(
        "VOC",
        names.VOC,
        _table({k: k for k in range(len(names.VOC))}, ignored=(IGNORED,)),
        True,
        _voc_pairs,
        _lists,
    ),
}
