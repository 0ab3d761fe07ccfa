"""What a training image is cut, mirrored and colored to, the mask with it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as colors

from nlnet.data.segmentation.layouts import IGNORED

_TRIES = 10  # of a crop that one class fills


@dataclass(frozen=True)
class CropSettings:
    """How images are handed out.

    Args:
        scale: (long, short), what the sides are resized to at most, keeping their ratio.
        ratio: in training `scale` is multiplied by a number from this range, drawn evenly.
        crop: (H, W) of a training image; what is missing is black, and ignored.
        most_of_one: the fraction of a crop's labeled pixels that one class may have; of ten tries the last one stands.
        flip: mirror half of the training images.
        color: change brightness, contrast, saturation and hue of training images, each in half of them.
    """

    scale: tuple[int, int]
    ratio: tuple[float, float]
    crop: tuple[int, int]
    most_of_one: float
    flip: bool
    color: bool


class Labeled(NamedTuple):
    """An image (3, H, W) uint8 and its labels (H, W) uint8."""

    image: Tensor
    labels: Tensor


def resized_size(width: int, height: int, scale: tuple[float, float]) -> tuple[int, int]:
    """(width, height) of an image that fits into `scale`, (long, short), with the ratio of its sides."""
    factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def whole(image: Image.Image, labels_HW: np.ndarray, settings: CropSettings) -> Labeled:
    """For an evaluation: the image resized, the labels as they are."""
    size = resized_size(image.width, image.height, settings.scale)
    return Labeled(_tensor(np.array(image.resize(size, Image.Resampling.BILINEAR))), torch.from_numpy(labels_HW))


def cut(image: Image.Image, labels_HW: np.ndarray, settings: CropSettings, rng: np.random.Generator) -> Labeled:
    """For training: resized at random, a crop of it, mirrored or not, colored; `rng` decides all of it."""
    factor = rng.uniform(*settings.ratio)
    width, height = resized_size(image.width, image.height, (settings.scale[0] * factor, settings.scale[1] * factor))
    scaled_HW = np.asarray(Image.fromarray(labels_HW).resize((width, height), Image.Resampling.NEAREST))
    top, left = _place(scaled_HW, settings, rng)
    part_HW = scaled_HW[top : top + settings.crop[0], left : left + settings.crop[1]]
    # Of the image no more is resized than the crop shows.
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + part_HW.shape[1]) * across, (top + part_HW.shape[0]) * down)
    pixels_HWC = np.array(image.resize(part_HW.shape[::-1], Image.Resampling.BILINEAR, box=box))  # type: ignore[arg-type]
    pixels = _tensor(pixels_HWC)
    labels = torch.from_numpy(part_HW.copy())
    if settings.flip and rng.random() < 0.5:
        pixels, labels = pixels.flip(-1), labels.flip(-1)
    if settings.color:
        pixels = colored(pixels, rng)
    return Labeled(_padded(pixels, settings.crop, 0), _padded(labels, settings.crop, IGNORED))


def colored(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """SSD's photometric distortion of an image (3, H, W) uint8: each change in half of the images.

    Brightness +- 32, contrast x 0.5 to 1.5 before or after the others, saturation x 0.5 to 1.5, hue +- 18 degrees of
    180.
    """
    first = rng.random() < 0.5
    image = pixels.float()
    if rng.random() < 0.5:
        image = image + rng.uniform(-32, 32)
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    image = (image * (contrast if first else 1.0)).clamp(0, 255) / 255
    if rng.random() < 0.5:
        image = colors.adjust_saturation(image, rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        image = colors.adjust_hue(image, rng.uniform(-0.1, 0.1))
    return (image * 255 * (1.0 if first else contrast)).round().clamp(0, 255).byte()


def _place(labels_HW: np.ndarray, settings: CropSettings, rng: np.random.Generator) -> tuple[int, int]:
    """The upper left corner of a crop that is not of one class almost alone, if that can be had."""
    height, width = settings.crop
    top = left = 0
    for _ in range(_TRIES):
        top = int(rng.integers(0, max(labels_HW.shape[0] - height, 0) + 1))
        left = int(rng.integers(0, max(labels_HW.shape[1] - width, 0) + 1))
        if settings.most_of_one >= 1:
            break
        counts = np.bincount(labels_HW[top : top + height, left : left + width].ravel(), minlength=256)[:IGNORED]
        if np.count_nonzero(counts) > 1 and counts.max() < settings.most_of_one * counts.sum():
            break
    return top, left


def _padded(x: Tensor, size: tuple[int, int], value: int) -> Tensor:
    """Filled up to `size` (H, W) at the bottom and at the right."""
    return torch.nn.functional.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), value=value)


def _tensor(pixels_HWC: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)))
