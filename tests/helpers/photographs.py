"""Small folders of images to restore."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {"train": ((40, 50), (45, 33), (36, 64)), "val": ((33, 41), (48, 32), (20, 26))}


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8: smooth, with an edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(y * a + x * b + c) for a, b, c in rng.uniform(0.05, 0.4, (3, 3))]
    image = np.stack(waves, axis=2) * 60 + 128
    image[:, width // 2 :] *= 0.7
    return image.round().astype(np.uint8)


def write_photographs(folder: Path) -> Path:
    """`folder` with some images to train on, one of them deeper, and some to be scored on."""
    for split, sizes in SIZES.items():
        (folder / split / "deep").mkdir(parents=True)
        for k, (height, width) in enumerate(sizes):
            image = Image.fromarray(picture(height, width, k if split == "train" else k + 10))
            place = folder / split / ("deep" if k == 1 else "") / f"{k}.png"
            (image.convert("L") if k == 2 else image).save(place)
    return folder
