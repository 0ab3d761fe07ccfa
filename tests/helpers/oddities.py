"""COCO folders, each with one kind of mistake or oddity, and what is right: refused, told, or taken without a word."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from helpers.coco import compressed, rectangle, uncompressed, write_image

WIDTH, HEIGHT, IMAGES = 64, 48, {"train": 5, "val": 3}
POINTS = ["nose", "left_hand", "right_hand"]
CATEGORIES: list[dict[str, Any]] = [
    {"id": 1, "name": "person", "keypoints": POINTS, "skeleton": [[1, 2], [1, 3]], "sigmas": [0.1] * 3},
    {"id": 4, "name": "kite"},
]

Content = dict[str, Any]


class Kind(NamedTuple):
    """`outcome` is "refused", "told" or "fine"; `words` are to be in what is said."""

    outcome: str
    words: str
    change: Callable[[Content, np.random.Generator], object]


def pictures(folder: Path) -> Path:
    """The images that all of the folders share."""
    for split, count in IMAGES.items():
        for k in range(count):
            write_image(folder / split / f"{split}_{k:03d}.jpg", WIDTH, HEIGHT, seed=k + 10 * len(split))
    return folder


def content(rng: np.random.Generator, split: str, first: int) -> Content:
    """A split whose ids begin with `first`: two objects an image, with polygons and keypoints."""
    images = [
        {"id": first + k, "file_name": f"{split}_{k:03d}.jpg", "width": WIDTH, "height": HEIGHT}
        for k in range(IMAGES[split])
    ]
    rows = []
    for image in images:
        for category in CATEGORIES:
            x, y, w, h = (int(v) for v in rng.integers((1, 1, 12, 12), (18, 10, 40, 34)))
            row = {"id": first + len(rows), "image_id": image["id"], "category_id": category["id"], "iscrowd": 0}
            row |= {"bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            if category["id"] == 1:
                row |= {"keypoints": [x + 2, y + 2, 2, x + 5, y + 5, 1, 0, 0, 0], "num_keypoints": 2}
            rows.append(row)
    return {"images": images, "annotations": rows, "categories": json.loads(json.dumps(CATEGORIES))}


def make(folder: Path, pictures: Path, kind: Kind, seed: int) -> Path:
    """A folder of that kind; with an even seed the mistake is in the training split, with an odd one in the other."""
    rng = np.random.default_rng(seed)
    contents = {split: content(rng, split, 1 + 100 * k) for k, split in enumerate(IMAGES)}
    shutil.copytree(pictures, folder)
    chosen = contents["train" if seed % 2 == 0 else "val"]
    changed = kind.change(chosen, rng)
    for split, made in contents.items():
        out = changed if made is chosen and changed is not None else made
        text = out if isinstance(out, str) else json.dumps(out)
        (folder / f"instances_{split}.json").write_text(text)
    return folder


def _rows(chosen: Content) -> list[dict[str, Any]]:
    return chosen["annotations"]


def _one(rows: list[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    return rows[int(rng.integers(len(rows)))]


def some(**changes: Any) -> Callable[[Content, np.random.Generator], None]:
    """Other values for fields of one object; a function is called with (its box, its category)."""

    def change(chosen: Content, rng: np.random.Generator) -> None:
        row = _one(_rows(chosen), rng)
        for name, value in changes.items():
            row[name] = value(row["bbox"]) if callable(value) else value

    return change


def every(**changes: Any) -> Callable[[Content, np.random.Generator], None]:
    """Other values for fields of every object."""

    def change(chosen: Content, rng: np.random.Generator) -> None:
        for row in _rows(chosen):
            box = row["bbox"]
            for name, value in changes.items():
                row[name] = value(box) if callable(value) else value

    return change


def without(*names: str) -> Callable[[Content, np.random.Generator], None]:
    """No object has these fields."""

    def change(chosen: Content, rng: np.random.Generator) -> None:
        for row in _rows(chosen):
            for name in names:
                row.pop(name, None)

    return change


def both(*changes: Callable[[Content, np.random.Generator], object]) -> Callable[[Content, np.random.Generator], None]:
    """One change after the other."""

    def change(chosen: Content, rng: np.random.Generator) -> None:
        for one in changes:
            one(chosen, rng)

    return change


def image(**changes: Any) -> Callable[[Content, np.random.Generator], None]:
    """Other values for fields of one image; a function is called with its file name."""

    def change(chosen: Content, rng: np.random.Generator) -> None:
        row = _one(chosen["images"], rng)
        row |= {name: value(row["file_name"]) if callable(value) else value for name, value in changes.items()}

    return change


def person(**changes: Any) -> Callable[[Content, np.random.Generator], None]:
    """Other values for fields of one object with keypoints."""

    def change(chosen: Content, rng: np.random.Generator) -> None:
        row = _one([row for row in _rows(chosen) if row["category_id"] == 1], rng)
        row |= {name: value(row["bbox"]) if callable(value) else value for name, value in changes.items()}

    return change


def _fractions(box: list[float]) -> list[float]:
    return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]


def _corners(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def _mask(box: list[float], empty: bool = False) -> np.ndarray:
    x, y, w, h = (int(v) for v in box)
    return rectangle(HEIGHT, WIDTH, (x, y, 0 if empty else w, h))


def _twice(name: str) -> Callable[[Content, np.random.Generator], None]:
    return lambda chosen, rng: chosen[name].append(dict(_one(chosen[name], rng)))


def _again(chosen: Content, rng: np.random.Generator) -> None:
    _rows(chosen).append(_one(_rows(chosen), rng) | {"id": 999})


def _categories(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Content, np.random.Generator], None]:
    def apply(chosen: Content, rng: np.random.Generator) -> None:
        change(chosen["categories"])

    return apply


def _ids_from(first: int) -> Callable[[Content, np.random.Generator], None]:
    def change(chosen: Content, rng: np.random.Generator) -> None:
        for k, row in enumerate(_rows(chosen)):
            row["id"] = first + k

    return change


def _image_ids_from_0(chosen: Content, rng: np.random.Generator) -> None:
    first = min(row["id"] for row in chosen["images"])
    for row in chosen["images"]:
        row["id"] -= first
    for row in _rows(chosen):
        row["image_id"] -= first


def _shuffled(chosen: Content, rng: np.random.Generator) -> None:
    for name in ("images", "annotations"):
        rng.shuffle(chosen[name])


def _panoptic(chosen: Content, rng: np.random.Generator) -> Content:
    rows = [{"image_id": row["id"], "file_name": "a.png", "segments_info": []} for row in chosen["images"]]
    return chosen | {"annotations": rows}


def _captions(chosen: Content, rng: np.random.Generator) -> Content:
    return chosen | {"annotations": [{"id": 1, "image_id": 1, "caption": "a kite"}]}


def _detections(chosen: Content, rng: np.random.Generator) -> Any:
    return [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]


def _drop(name: str) -> Callable[[Content, np.random.Generator], object]:
    return lambda chosen, rng: {key: value for key, value in chosen.items() if key != name}


def _cut(chosen: Content, rng: np.random.Generator) -> str:
    text = json.dumps(chosen)
    return text[: len(text) // 2]


KINDS: dict[str, Kind] = {
    # Nothing is wrong with these.
    "plain": Kind("fine", "", lambda *_: None),
    "annotation ids from 0": Kind("fine", "", _ids_from(0)),
    "annotation ids below 0": Kind("fine", "", _ids_from(-50)),
    "large ids": Kind("fine", "", _ids_from(2**40)),
    "image ids from 0": Kind("fine", "", _image_ids_from_0),
    "shuffled rows": Kind("fine", "", _shuffled),
    "no info, area, iscrowd": Kind("fine", "", without("area", "iscrowd")),
    "more fields": Kind("fine", "", every(attributes={"occluded": True}, track_id=3, score=0.5)),
    "boxes of fractions of pixels": Kind("fine", "", every(bbox=lambda b: [v + 0.25 for v in b])),
    "empty segmentations": Kind("fine", "", every(segmentation=[])),
    "segmentations that are null": Kind("fine", "", every(segmentation=None)),
    "compressed masks": Kind("fine", "", every(segmentation=lambda b: compressed(_mask(b)))),
    "uncompressed masks": Kind("fine", "", every(segmentation=lambda b: uncompressed(_mask(b)))),
    "an image without objects": Kind("fine", "", lambda c, r: _rows(c).__delitem__(slice(0, 2))),
    "some crowds": Kind("fine", "", some(iscrowd=1)),
    "iscrowd of true and false": Kind("fine", "", every(iscrowd=False)),
    "categories in another order": Kind("fine", "", _categories(lambda c: c.reverse())),
    "categories with more fields": Kind("fine", "", _categories(lambda c: c[1].update(supercategory="toy", color="r"))),
    "categories without keypoints": Kind("fine", "", _categories(lambda c: c[0].pop("keypoints"))),
    "a category without objects": Kind("fine", "", _categories(lambda c: c.append({"id": 0, "name": "things"}))),
    "file names with folders": Kind("fine", "", image(file_name=lambda n: f"{n.split('_')[0]}/{n}")),
    "file names with backslashes": Kind("fine", "", image(file_name=lambda n: f"{n.split('_')[0]}\\{n}")),
    "file names from another machine": Kind("fine", "", image(file_name=lambda n: f"/pictures/me/{n}")),
    # These are hardly meant.
    "a box in fractions": Kind("told", "fractions of the image", some(bbox=_fractions)),
    "a box outside": Kind("told", "outside of the 64 x 48 image", some(bbox=lambda b: [70, b[1], 20, 20])),
    "a box above": Kind("told", "outside of the 64 x 48 image", some(bbox=lambda b: [b[0], -30, 20, 20])),
    "a box of no width": Kind("told", "less than a pixel wide", some(bbox=lambda b: [b[0], b[1], 0, 20])),
    "a box of no height": Kind("told", "less than a pixel wide", some(bbox=lambda b: [b[0], b[1], 20, 0.4])),
    "a box of corners": Kind("told", "the corners of its mask", some(bbox=_corners)),
    "boxes of corners": Kind(
        "told",
        "could be [x1, y1, x2, y2]",
        both(every(bbox=lambda b: _corners([30, b[1], min(b[2], 30), b[3]])), without("segmentation", "area")),
    ),
    "a box over the edge": Kind("told", "reach beyond", some(bbox=lambda b: [50, 30, 60, 40], segmentation=[])),
    "an area of 0": Kind("told", "area is 0", some(area=0)),
    "an area as a fraction": Kind("told", "area is 0.02", some(area=0.02)),
    "an area of another": Kind("told", "that of its box", some(area=50000)),
    "a mask elsewhere": Kind(
        "told", "its mask goes from", some(segmentation=[[62, 46, 63, 46, 63, 47]], bbox=[1, 1, 20, 20])
    ),
    "a mask in fractions": Kind(
        "told", "its mask goes from", some(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]], bbox=[20, 20, 20, 20])
    ),
    "run lengths of nothing": Kind("told", "no pixel", some(segmentation=lambda b: compressed(_mask(b, True)))),
    "a polygon without area": Kind("told", "no pixel", some(segmentation=[[3, 3, 9, 9, 6, 6]])),
    "a stray polygon": Kind(
        "told", "4 numbers, expected pairs", lambda c, r: _one(_rows(c), r)["segmentation"].append([1, 2, 3, 4])
    ),
    "a polygon of four numbers alone": Kind("told", "4 numbers, expected pairs", some(segmentation=[[1, 2, 3, 4]])),
    "a polygon of nothing": Kind("told", "0 numbers, expected pairs", some(segmentation=[[]])),
    "an object without a mask": Kind("told", "data.masks=true leaves them out", some(segmentation=[])),
    "the same object twice": Kind("told", "the box of another one", _again),
    "num_keypoints of another": Kind("told", "2 are labeled, which counts", person(num_keypoints=9)),
    "keypoints in fractions": Kind("told", "expected pixels", person(keypoints=[0.2, 0.3, 2, 0.5, 0.5, 2, 0, 0, 0])),
    "keypoints outside": Kind("told", "is outside of the 64 x 48", person(keypoints=[90, 3, 2, 5, 5, 1, 0, 0, 0])),
    "keypoints elsewhere": Kind(
        "told",
        "none of them is near",
        person(keypoints=[60, 45, 2, 61, 45, 2, 0, 0, 0], bbox=[1, 1, 8, 8], segmentation=[]),
    ),
    "categories of one name": Kind(
        "told", "are called 'kite', too", _categories(lambda c: c.append({"id": 9, "name": "Kite "}))
    ),
    "limbs that are none": Kind("told", "its limbs are", _categories(lambda c: c[0].update(skeleton=[[1, 9]]))),
    # These cannot be.
    "an image id twice": Kind("refused", "duplicate image id", _twice("images")),
    "an annotation id twice": Kind("refused", "duplicate annotation id", _twice("annotations")),
    "a category id twice": Kind("refused", "duplicate category id", _twice("categories")),
    "an id of letters": Kind("refused", "bad id", some(id="a1")),
    "an id that is null": Kind("refused", "bad id", some(id=None)),
    "no box": Kind("refused", "bad box", without("bbox")),
    "a box of three": Kind("refused", "bad box", some(bbox=[1, 2, 3])),
    "a box of words": Kind("refused", "bad box", some(bbox=["1", "2", "3", "4"])),
    "a box that is none": Kind("refused", "bad box", some(bbox=[1, 2, float("nan"), 4])),
    "a box of negative size": Kind("refused", "negative size", some(bbox=[20, 20, -5, 9])),
    "a category that is not there": Kind("refused", "no such category", some(category_id=77)),
    "an image that is not there": Kind("refused", "no such image", some(image_id=77)),
    "iscrowd of 2": Kind("refused", "bad iscrowd", some(iscrowd=2)),
    "a negative area": Kind("refused", "bad area", some(area=-4)),
    "run lengths that do not fill": Kind(
        "refused", "bad run lengths", some(segmentation={"size": [48, 64], "counts": [5]})
    ),
    "run lengths of another size": Kind(
        "refused", "bad run lengths", some(segmentation={"size": [9, 9], "counts": [81]})
    ),
    "run lengths of other letters": Kind(
        "refused", "bad run lengths", some(segmentation={"size": [48, 64], "counts": "\x07"})
    ),
    "a polygon of words": Kind("refused", "bad polygon", some(segmentation=[["1", 2, 3, 4, 5, 6]])),
    "a polygon far away": Kind("refused", "far outside", some(segmentation=[[0, 0, 9000, 0, 9000, 9000]])),
    "segmentation of a word": Kind("refused", "bad segmentation", some(segmentation="mask.png")),
    "keypoints of another number": Kind("refused", "bad keypoints", person(keypoints=[1, 2, 2])),
    "visibilities of 3": Kind("refused", "visibilities", person(keypoints=[1, 2, 3] * 3)),
    "no file name": Kind("refused", "no file name", image(file_name=None)),
    "a file name of a dot": Kind("refused", "no file name", image(file_name=".")),
    "a file name of a slash": Kind("refused", "no file name", image(file_name="/")),
    "a file name of a folder": Kind("refused", "no file name", image(file_name="train/")),
    "a file name of two dots": Kind("refused", "no file name", image(file_name="a/..")),
    "no width": Kind("refused", "bad image size", image(width=None)),
    "a width of 0": Kind("refused", "bad image size", image(width=0)),
    "a width of a word": Kind("refused", "bad image size", image(width="64")),
    "a width without end": Kind("refused", "set NLNET_MAX_PIXELS=", image(width=10**7)),
    "a file that is not there": Kind("refused", "missing", image(file_name="nothing.jpg")),
    "a file of another suffix": Kind("refused", "another name", image(file_name=lambda n: n.replace(".jpg", ".png"))),
    "a format that is not read": Kind("refused", "missing", image(file_name="a.heic")),
    "no categories": Kind("refused", "no list of objects under 'categories'", _drop("categories")),
    "no annotations": Kind("refused", "no list of objects under 'annotations'", _drop("annotations")),
    "annotations of nothing": Kind("refused", "no object in the split", lambda c, r: _rows(c).clear()),
    "a category without a name": Kind("refused", "no category name", _categories(lambda c: c[0].pop("name"))),
    "names that contradict": Kind("refused", "other categories", _categories(lambda c: c[1].update(name="dog"))),
    "ids that contradict": Kind("refused", "no such category", _categories(lambda c: c[1].update(id=5))),
    "keypoints that contradict": Kind(
        "refused", "other keypoints", _categories(lambda c: c[0].update(keypoints=["a", "b", "c"]))
    ),
    "a panoptic file": Kind("refused", "panoptic", _panoptic),
    "a file of captions": Kind("refused", "captions", _captions),
    "a list of detections": Kind("refused", "a list of detections", _detections),
    "half a file": Kind("refused", "JSON", _cut),
    "a web page": Kind("refused", "JSON", lambda c, r: "<html>not found</html>"),
    "no file at all": Kind("refused", "JSON", lambda c, r: ""),
    "all boxes in fractions": Kind("refused", "can be used", every(bbox=_fractions)),
    "all boxes outside": Kind("refused", "can be used", every(bbox=[100, 100, 20, 20])),
    "all boxes of no width": Kind("refused", "can be used", every(bbox=lambda b: [b[0], b[1], 0, b[3]])),
    "crowds alone": Kind("refused", "can be used", every(iscrowd=1)),
}
