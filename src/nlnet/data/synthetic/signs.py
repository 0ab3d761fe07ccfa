"""Built-in images whose labels need to be looked up far away: a sign at one edge says what the fields are.

An image is 64 x 128 pixels and shows, on gray ground, one patch each of red, green and blue, and two white *fields*. A
sign near its left or right edge is yellow or violet. Under a yellow sign the fields are wheat, under a violet one they
are snow; they look the same. Both kinds are equally often.

No pixel of a field is nearer than `DISTANCE` pixels to the sign, along the width. A network that sees less gives the
fields a class without knowing the sign. For one that takes fraction p of their pixels for wheat, the IoUs of the two
are p / (1 + p) and (1 - p) / (2 - p); their sum is from 1/2 (p = 0 or 1) to 2/3 (p = 1/2). So with the four other
classes right the mIoU of such a network is at most (4 + 2/3) / 6 = 0.778, and 0.75 for one that always says the same.

Around each patch and field three pixels to either side of the border are not labeled, as in VOC.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nlnet.data.segmentation.layouts import CLASS_FILE, IGNORED

STANDS_IN_FOR = ("cityscapes", "ade20k", "voc")
SEED = 20190703
HEIGHT, WIDTH = 64, 128
SIGN_HEIGHT, SIGN_WIDTH = 48, 14
DISTANCE, BORDER = 46, 3  # pixels from a field to the sign, and without a label on both sides of a border
SPLITS = {"train": 480, "val": 160}
CLASSES = ("ground", "red", "green", "blue", "wheat", "snow")

_COLORS = {1: (200, 60, 50), 2: (60, 170, 70), 3: (60, 90, 200)}
_FIELD = (232, 232, 228)
_SIGNS = {4: (235, 205, 40), 5: (150, 60, 190)}


class Patch(NamedTuple):
    """A rectangle of one label, in pixels."""

    label: int
    top: int
    left: int
    height: int
    width: int


def render(split: str, index: int, *, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Image `index` of a split: pixels (64, 128, 3) uint8 RGB, and labels (64, 128) uint8."""
    rng = np.random.default_rng([seed, index, *split.encode()])
    kind = 4 + index % 2
    labels_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    border_HW = np.zeros((HEIGHT, WIDTH), bool)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / WIDTH - 0.25
    light = rng.uniform(105, 125) + rng.uniform(-20, 20) * y + rng.uniform(-20, 20) * x
    pixels = np.repeat(light[..., None], 3, axis=2)
    for patch in patches(rng, kind):
        color = _FIELD if patch.label > 3 else _COLORS[patch.label]
        inside = np.s_[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width]
        pixels[inside] = np.array(color) + rng.uniform(-15, 15)
        labels_HW[inside] = patch.label
        _mark_border(border_HW, patch)
    labels_HW[border_HW] = IGNORED
    top, left = int(rng.integers(2, HEIGHT - SIGN_HEIGHT - 2)), int(rng.integers(2, 6))
    pixels[top : top + SIGN_HEIGHT, left : left + SIGN_WIDTH] = np.array(_SIGNS[kind]) + rng.uniform(-15, 15)
    if rng.random() < 0.5:
        pixels, labels_HW = pixels[:, ::-1], labels_HW[:, ::-1]
    noisy = pixels + rng.normal(0, 4, pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), np.ascontiguousarray(labels_HW)


def patches(rng: np.random.Generator, kind: int) -> list[Patch]:
    """Two fields at the right and three colored patches anywhere but at the sign, six pixels apart."""
    placed: list[Patch] = []
    nearest = 6 + SIGN_WIDTH + DISTANCE  # no sign reaches further than its left-most six and its width
    for label, least in ((kind, nearest), (kind, nearest), (1, 24), (2, 24), (3, 24)):
        for _ in range(200):
            height, width = (int(value) for value in rng.integers(18, 27, 2))
            top, left = int(rng.integers(0, HEIGHT - height)), int(rng.integers(least, WIDTH - width))
            patch = Patch(label, top, left, height, width)
            if all(_apart(patch, other) for other in placed):
                placed.append(patch)
                break
    return placed


def build(folder: Path, images: Mapping[str, int] | None = None, *, seed: int = SEED) -> None:
    """Writes images, masks and the names of the classes into a new `folder`: so many images of each split.

    The same arguments give the same pixels.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    (folder / CLASS_FILE).write_text("".join(f"{name}\n" for name in CLASSES))
    for split, count in (images or SPLITS).items():
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            pixels, labels = render(split, index, seed=seed)
            for kind, content in (("images", pixels), ("masks", labels)):
                Image.fromarray(content).save(folder / kind / split / f"{index:06d}.png", compress_level=1)


def _apart(a: Patch, b: Patch) -> bool:
    gap = 2 * BORDER
    beside = a.left + a.width + gap <= b.left or b.left + b.width + gap <= a.left
    return beside or a.top + a.height + gap <= b.top or b.top + b.height + gap <= a.top


def _mark_border(border_HW: np.ndarray, patch: Patch) -> None:
    outer = np.zeros_like(border_HW)
    top, left = max(patch.top - BORDER, 0), max(patch.left - BORDER, 0)
    outer[top : patch.top + patch.height + BORDER, left : patch.left + patch.width + BORDER] = True
    outer[
        patch.top + BORDER : patch.top + patch.height - BORDER, patch.left + BORDER : patch.left + patch.width - BORDER
    ] = False
    border_HW |= outer
