"""A built-in set of images in COCO's format: discs, squares and triangles, with boxes, polygons and keypoints.

An image is 128 x 128 pixels and shows up to four shapes that do not touch, of any color, a little turned; one image
in sixteen shows none. Triangles have keypoints: the tip, and a left and a right foot, which change sides in a mirror.
Polygons are the shapes themselves, so masks are right to a pixel.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nlnet.data.annotations.coco import shown_classes
from nlnet.data.shards.coco import image_sample, write_truth
from nlnet.data.shards.manifest import Manifest, Sample, Shard, write_manifest
from nlnet.data.shards.writer import RawSample, write_shard

DATASET = "coco"
SEED = 20180618
SIZE = 128
IMAGES_PER_SHARD = 256
SPLITS = {"train": 1024, "val": 250}
EMPTY_EVERY = 16
CATEGORIES: list[dict[str, Any]] = [  # the ids have gaps, as COCO's have
    {"id": 1, "name": "disc", "supercategory": "shape"},
    {"id": 3, "name": "square", "supercategory": "shape"},
    {
        "id": 4,
        "name": "triangle",
        "supercategory": "shape",
        "keypoints": ["tip", "left_foot", "right_foot"],
        "skeleton": [[1, 2], [1, 3], [2, 3]],
        "sigmas": [0.1, 0.1, 0.1],  # COCO's for a hip is 0.107
    },
]
_FINER = 4  # times the image's resolution, for smooth edges


class Shape(NamedTuple):
    """A category's place in CATEGORIES, and the corners (n, 2) in pixels, x and y."""

    category: int
    corners: np.ndarray


def render(split: str, index: int, *, seed: int = SEED) -> tuple[np.ndarray, list[Shape]]:
    """Image `index` of a split, (128, 128, 3) uint8 RGB, and what it shows: a function of its arguments alone."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng([seed, index, *split.encode()])
    shapes = [] if index % EMPTY_EVERY == EMPTY_EVERY - 1 else _shapes(rng)
    canvas = Image.new("RGB", (_FINER * SIZE,) * 2, _color(rng, 30, 110))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        draw.polygon([tuple(corner) for corner in shape.corners * _FINER - 0.5], fill=_color(rng, 130, 250))
    pixels = np.asarray(canvas.reduce(_FINER), dtype=np.float64)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE - 0.5
    light = rng.uniform(-25, 25) * y + rng.uniform(-25, 25) * x
    noisy = pixels + light[..., None] + rng.normal(0, 5, pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), shapes


def annotation(shape: Shape, number: int, image_id: int) -> dict[str, Any]:
    """COCO's record of a shape, in hundredths of a pixel."""
    corners = shape.corners.round(2)
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    category = CATEGORIES[shape.category]
    row: dict[str, Any] = {
        "id": number,
        "image_id": image_id,
        "category_id": category["id"],
        "bbox": [round(float(value), 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": round(_area(corners), 2),
        "segmentation": [corners.ravel().tolist()],
        "iscrowd": 0,
    }
    if names := category.get("keypoints"):
        # A keypoint at x = 3 is the middle of pixel 3, a corner at x = 3 that pixel's left edge.
        points = (corners - 0.5).round(2)
        row["keypoints"] = [value for x, y in points.tolist() for value in (x, y, 2)]
        row["num_keypoints"] = len(names)
    return row


def build(folder: Path, images: Mapping[str, int] | None = None, *, seed: int = SEED) -> None:
    """Writes shards, annotations and manifests into a new `folder`: so many images of each split.

    The same arguments give the same bytes.
    """
    folder.mkdir(parents=True)
    for split, count in (images or SPLITS).items():
        shards: list[Shard] = []
        samples: list[Sample] = []
        notes: dict[str, dict[str, Any]] = {}
        for start in range(0, count, IMAGES_PER_SHARD):
            path = folder / f"{DATASET}-{split}-{len(shards):06d}.tar"
            raws = list(_raw_samples(split, range(start, min(start + IMAGES_PER_SHARD, count)), seed))
            shard, written = write_shard(path, len(shards), raws)
            shards.append(shard)
            samples.extend(written)
            notes |= {raw.key: dict(raw.notes) for raw in raws}
        names = tuple(row["name"] for row in CATEGORIES)
        details = {"categories": CATEGORIES}
        manifest = Manifest(DATASET, split, "detection", names, {}, tuple(shards), tuple(samples), details)
        write_manifest(folder, write_truth(manifest, notes.__getitem__, lambda name, data: _write(folder, name, data)))


def _write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


def _raw_samples(split: str, indices: Iterable[int], seed: int) -> Iterator[RawSample]:
    from PIL import Image

    class_of = {row["id"]: k for k, row in enumerate(CATEGORIES)}

    def make(index: int) -> RawSample:
        pixels, shapes = render(split, index, seed=seed)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
        key = f"{split}{index:06d}"
        image = {"id": index + 1, "file_name": f"{key}.jpg", "width": SIZE, "height": SIZE}
        rows = [annotation(shape, 10 * index + k + 1, index + 1) for k, shape in enumerate(shapes)]
        notes = {"image": image, "annotations": rows}
        return image_sample(key, file.getvalue(), "jpg", shown_classes(rows, class_of), notes)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(make, indices)


def _shapes(rng: np.random.Generator) -> list[Shape]:
    """One to four shapes whose boxes stay three pixels apart."""
    shapes: list[Shape] = []
    boxes: list[np.ndarray] = []
    wanted = int(rng.integers(1, 5))
    for _ in range(12 * wanted):
        size = rng.uniform(26, 52)
        category = int(rng.integers(len(CATEGORIES)))
        corners = _corners(category, size, rng)
        low, high = corners.min(0), corners.max(0)
        corners = corners - low + rng.uniform(2, SIZE - 2 - (high - low))
        box = np.concatenate([corners.min(0) - 3, corners.max(0) + 3])
        if all(_apart(box, other) for other in boxes):
            shapes.append(Shape(category, corners))
            boxes.append(box)
        if len(shapes) == wanted:
            break
    return shapes


def _apart(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[2:] < b[:2]).any() or (b[2:] < a[:2]).any())


def _corners(category: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """The outline (n, 2) around the origin, turned by at most 20 degrees; a triangle's as its keypoints are listed."""
    if CATEGORIES[category]["name"] == "disc":
        angles = np.arange(32) * 2 * np.pi / 32
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) / 2
    elif CATEGORIES[category]["name"] == "square":
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.42
    else:
        corners = np.array([[0, -0.55], [-0.5, 0.45], [0.5, 0.45]])
    turn = rng.uniform(-np.pi / 9, np.pi / 9)
    turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return size * turned


def _area(corners: np.ndarray) -> float:
    x, y = corners.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _color(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue
