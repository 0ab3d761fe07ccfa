"""COCO's segmentations as pixels: polygons, and run lengths, compressed or not.

Run lengths go down the columns, left to right, and begin with the zeros. Compressed they are a text of numbers of base
32, lowest digit first, from the fourth on the difference to the number before the last.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def run_lengths(counts: str | Sequence[int], height: int, width: int) -> np.ndarray:
    """The run lengths of a `height` x `width` mask as numbers. Raises ValueError unless they fill it exactly."""
    numbers = _decompress(counts) if isinstance(counts, str) else list(counts)
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
        raise ValueError("run lengths that are not whole numbers from 0")
    if sum(numbers) != height * width:
        raise ValueError(f"run lengths of {sum(numbers)} pixels for {height * width}")
    return np.array(numbers, dtype=np.int64)


def _decompress(text: str) -> list[int]:
    numbers: list[int] = []
    number = shift = 0
    for letter in text:
        digit = ord(letter) - 48
        if not 0 <= digit < 64:
            raise ValueError(f"the letter {letter!r} in compressed run lengths")
        number |= (digit & 31) << shift
        shift += 5
        if shift > 40:
            raise ValueError("a number without end in compressed run lengths")
        if not digit & 32:
            if digit & 16:
                number -= 1 << shift
            numbers.append(number + numbers[-2] if len(numbers) > 2 else number)
            number = shift = 0
    if shift:
        raise ValueError("compressed run lengths that end within a number")
    return numbers


def usable_segmentation(segmentation: Any) -> Any:
    """What of an annotation's segmentation is a mask: run lengths, or its polygons of at least three corners.

    None where nothing is. A list of four numbers is a box to pycocotools, and a mistake wherever it is found.
    """
    if isinstance(segmentation, dict):
        return segmentation or None
    return [polygon for polygon in segmentation or () if len(polygon) >= 6 and len(polygon) % 2 == 0] or None


def is_empty(segmentation: Any) -> bool:
    """Whether no pixel is in what `usable_segmentation` gave: run lengths of zeros alone, polygons without area."""
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        return not run_lengths(segmentation["counts"], height, width)[1::2].any()
    return not any(_area(polygon) for polygon in segmentation)


def _area(polygon: Sequence[float]) -> float:
    x, y = polygon[0::2], polygon[1::2]
    return sum(x[k - 1] * y[k] - x[k] * y[k - 1] for k in range(len(x))) / 2


def rle_mask(rle: dict[str, Any]) -> np.ndarray:
    """(H, W) uint8 of 0 and 1 from `{"size": [H, W], "counts": ...}`. Raises ValueError."""
    height, width = rle["size"]
    runs = run_lengths(rle["counts"], height, width)
    values = np.arange(len(runs), dtype=np.uint8) % 2
    return np.repeat(values, runs).reshape(width, height).T


def outline(segmentation: Any) -> float:
    """The length in pixels of the longest polygon's border; 0 for run lengths. Drawing takes memory by it."""
    if isinstance(segmentation, dict):
        return 0.0
    corners = [np.reshape(points, (-1, 2)) for points in segmentation]
    return max((float(np.abs(xy - np.roll(xy, 1, 0)).max(1).sum()) for xy in corners), default=0.0)


def polygon_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """(H, W) uint8, 1 inside any of the polygons [x1, y1, x2, y2, ...], by COCO's own rule for borders."""
    from pycocotools import mask

    merged = mask.merge(mask.frPyObjects([list(points) for points in polygons], height, width))
    return rle_mask({"size": merged["size"], "counts": merged["counts"].decode()})


def given_mask(segmentation: Any, scale_xy: tuple[float, float], height: int, width: int, flip: bool) -> np.ndarray:
    """The mask of an image that was scaled by `scale_xy` to `height` x `width` and then perhaps mirrored.

    Polygons are scaled before they are drawn, so nothing is lost; run lengths are resized to the nearest pixel.
    """
    from PIL import Image

    if isinstance(segmentation, dict):
        pixels = Image.fromarray(rle_mask(segmentation)).resize((width, height), Image.Resampling.NEAREST)
        mask = np.array(pixels)
    else:
        scaled = [np.reshape(points, (-1, 2)) * scale_xy for points in segmentation]
        mask = polygon_mask([points.ravel().tolist() for points in scaled], height, width)
    return mask[:, ::-1] if flip else mask
