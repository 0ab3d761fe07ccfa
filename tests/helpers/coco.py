"""A small COCO folder with everything that COCO files may hold, and everything that may be wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

POINTS = ["nose", "left_hand", "right_hand"]
CATEGORIES: list[dict[str, Any]] = [
    {"id": 2, "name": "person", "supercategory": "being"},
    {"id": 7, "name": "kite", "supercategory": "thing"},
]
PERSON = {**CATEGORIES[0], "keypoints": POINTS, "skeleton": [[1, 2], [1, 3]], "sigmas": [0.05, 0.1, 0.1]}
TURN_LEFT = 6  # EXIF: the stored image has to be turned by 90 degrees to stand upright


def write_image(path: Path, width: int, height: int, seed: int, *, mode: str = "RGB", orientation: int = 1) -> None:
    """An image of noise on a slope, so that no two pixels' neighborhoods are alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, rng.integers(0, 256, (height, width))], 2)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path, exif=exif, quality=95)


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) as COCO's list of run lengths, counted one by one."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) as pycocotools compresses it."""
    from pycocotools import mask as masks

    rle = masks.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def rectangle(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W) uint8 with ones in the box x, y, width, height."""
    mask = np.zeros((height, width), np.uint8)
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    return mask


def write_coco(root: Path) -> Path:
    """Six training and three validation images with instances and keypoints, as COCO lays them out."""
    sizes = {1: (64, 48), 2: (48, 64), 3: (64, 48), 4: (64, 48), 5: (40, 60), 6: (80, 40)}
    for split, ids in (("train", (1, 2, 3, 4, 5, 6)), ("val", (1, 2, 4))):
        images = [_image(root, split, k, *sizes[k]) for k in ids]
        objects = [row for image in images for row in _objects(image)]
        points = [{**row, **_points(row)} for row in objects if row["category_id"] == 2]
        plain = {"info": {"year": 2017}, "images": images, "annotations": objects, "categories": CATEGORIES}
        persons = {"images": images, "annotations": points, "categories": [PERSON]}
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        for name, content in (("instances", plain), ("person_keypoints", persons)):
            (root / "annotations" / f"{name}_{split}2017.json").write_text(json.dumps(content))
    return root


def _image(root: Path, split: str, number: int, width: int, height: int) -> dict[str, Any]:
    name = f"{number:012d}.{'png' if number == 6 else 'jpg'}"
    # 3 is gray; 4 is to be turned but annotated as it is stored; 5 is annotated upright.
    stored = (height, width) if number == 5 else (width, height)
    mode, turned = "L" if number == 3 else "RGB", TURN_LEFT if number in (4, 5) else 1
    write_image(root / f"{split}2017" / name, *stored, seed=number, mode=mode, orientation=turned)
    return {"id": number, "file_name": name, "width": width, "height": height, "license": 4}


def _objects(image: dict[str, Any]) -> list[dict[str, Any]]:
    """For every image but the third: a person of two polygons, a kite in compressed and a crowd in plain runs."""
    k, height, width = image["id"], image["height"], image["width"]
    if k == 3:
        return []
    polygons = [[4.5, 6.25, 24.5, 6.25, 24.5, 30.75, 4.5, 30.75], [26, 8, 30, 8, 30, 12]]
    kite, crowd = rectangle(height, width, (30, 20, 8, 10)), rectangle(height, width, (2, 32, 20, 6))
    rows: list[dict[str, Any]] = [
        {"bbox": [4.5, 6.25, 25.5, 24.5], "category_id": 2, "segmentation": polygons, "area": 498.0, "iscrowd": 0},
        {"bbox": [30, 20, 8, 10], "category_id": 7, "segmentation": compressed(kite), "area": 80, "iscrowd": 0},
        {"bbox": [2, 32, 20, 6], "category_id": 2, "segmentation": uncompressed(crowd), "area": 120, "iscrowd": 1},
    ]
    return [{"id": 100 * k + place, "image_id": k, **row} for place, row in enumerate(rows)]


def _points(row: dict[str, Any]) -> dict[str, Any]:
    if row["iscrowd"]:
        return {"keypoints": [0] * 9, "num_keypoints": 0}
    return {"keypoints": [10, 8, 2, 6, 20, 1, 0, 0, 0], "num_keypoints": 2}


def write_broken(root: Path) -> Path:
    """A folder with one mistake of each kind; its second image is not there."""
    write_image(root / "train2017" / "a.jpg", 64, 48, 0)
    images = [{"id": k, "file_name": f"{name}.jpg", "width": 64, "height": 48} for k, name in ((1, "a"), (2, "b"))]
    good = {"image_id": 1, "category_id": 2, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    changes: list[dict[str, Any]] = [
        {"id": 10, "image_id": 99},
        {"id": 11, "category_id": 55},
        {"id": 12, "bbox": [5, 5, -3, 4]},
        {"id": 13, "segmentation": [[1, 2, 3, 4]]},
        {"id": 14},
        {"id": 14},
        {"id": 15, "keypoints": [1, 2, 2, 4]},
        {"id": 16, "segmentation": {"size": [48, 64], "counts": [5, 5]}},
        {"id": 17, "segmentation": {"size": [48, 64], "counts": "0"}},
        {"id": 18, "segmentation": {"size": [64, 48], "counts": [3072]}},
        {"id": 19, "bbox": [1, 2, 3]},
        {"id": 20, "bbox": [1, 2, 3, "4"]},
        {"id": 21, "keypoints": [1, 2, 3] * 3},
        {"id": 22, "segmentation": [[0, 0, 1e8, 0, 1e8, 1e8]]},
    ]
    content = {"images": images, "annotations": [good | change for change in changes], "categories": [PERSON]}
    (root / "instances_train2017.json").write_text(json.dumps(content))
    return root
