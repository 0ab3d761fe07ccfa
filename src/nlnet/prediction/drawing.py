"""Detections on an image: boxes, masks, skeletons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

# Far apart in hue, and light enough for dark text on them.
COLORS = (
    (76, 201, 240), (255, 209, 102), (239, 108, 130), (149, 213, 117), (199, 146, 234),
    (255, 159, 67), (94, 234, 212), (244, 162, 224), (190, 190, 120), (140, 170, 255),
)  # fmt: skip
_MASK_STRENGTH = 0.45


def draw(
    image: np.ndarray,
    prediction: Mapping[str, Any],
    *,
    classes: Sequence[str],
    skeleton: Sequence[Sequence[int]] = (),
    threshold: float = 0.5,
) -> np.ndarray:
    """A copy of `image` (H, W, 3) uint8 with every instance that scores at least `threshold` drawn on it.

    Args:
        prediction: tensors, in pixels of `image`: `boxes` (n, 4) as x1, y1, x2, y2; `labels` (n,) from 1; and where
            there are any `scores` (n,), `masks` (n, H, W) or (n, 1, H, W) as probabilities or 0 and 1, and
            `keypoints` (n, K, 3), the third number above 0 where the point is there. Ground truth has no scores, and
            all of it is drawn.
        classes: the name of label k + 1.
        skeleton: pairs of keypoints to join, counted from 0.
    """
    chosen = _chosen(prediction, threshold)
    colors = [COLORS[(label - 1) % len(COLORS)] for label in chosen["labels"].tolist()]
    picture = np.array(image, dtype=np.uint8)
    for mask, color in zip(chosen.get("masks", ()), colors, strict=False):
        inside = mask.reshape(picture.shape[:2]).numpy() >= 0.5
        picture[inside] = (1 - _MASK_STRENGTH) * picture[inside] + _MASK_STRENGTH * np.array(color)
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    width = max(1, round(max(picture.shape[:2]) / 400))
    for position, color in enumerate(colors):
        box = chosen["boxes"][position].tolist()
        pen.rectangle(_ordered(box), outline=color, width=width)
        if "keypoints" in chosen:
            _skeleton(pen, chosen["keypoints"][position], skeleton, color, width)
        score = f" {chosen['scores'][position]:.2f}" if "scores" in chosen else ""
        name = classes[int(chosen["labels"][position]) - 1]
        _label(pen, box[:2], f"{name}{score}", color)
    return np.array(canvas)


def image_grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 4) -> np.ndarray:
    """The pictures of every row beside each other on white, the rows below each other; (H, W, 3) uint8."""
    height = sum(max(p.shape[0] for p in row) + gap for row in rows) - gap
    width = max(sum(p.shape[1] + gap for p in row) for row in rows) - gap
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for row in rows:
        left = 0
        for picture in row:
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + gap
        top += max(p.shape[0] for p in row) + gap
    return sheet


def _chosen(prediction: Mapping[str, Any], threshold: float) -> dict[str, Tensor]:
    """The instances to draw, the best last and so on top."""
    names = ("boxes", "labels", "scores", "masks", "keypoints")
    found = {name: torch.as_tensor(prediction[name]).detach().cpu() for name in names if name in prediction}
    scores = found.get("scores")
    if scores is None:
        return found
    order = scores.argsort(stable=True)
    order = order[scores[order] >= threshold]
    return {name: value[order] for name, value in found.items()}


def _ordered(box: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _skeleton(
    pen: ImageDraw.ImageDraw,
    points: Tensor,
    skeleton: Sequence[Sequence[int]],
    color: tuple[int, int, int],
    width: int,
) -> None:
    there = points[:, 2] > 0
    for a, b in skeleton:
        if there[a] and there[b]:
            pen.line([*points[a, :2].tolist(), *points[b, :2].tolist()], fill=color, width=width)
    radius = width + 1
    for x, y in points[there][:, :2].tolist():
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color, outline=(0, 0, 0))


def _label(pen: ImageDraw.ImageDraw, corner: Sequence[float], text: str, color: tuple[int, int, int]) -> None:
    left, top, right, bottom = pen.textbbox((0, 0), text)
    x, y = max(corner[0], 0), max(corner[1] - (bottom - top) - 3, 0)
    pen.rectangle([x, y, x + right - left + 3, y + bottom - top + 3], fill=color)
    pen.text((x + 1 - left, y + 1 - top), text, fill=(0, 0, 0))
