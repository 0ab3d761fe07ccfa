"""Spatial augmentation, in two halves: a worker draws and cuts the crop, the device resizes, flips and normalises.

The draw is the paper's (section 4.1): the short side is scaled to a random length, a square of `size` is cropped at
random, and the clip is mirrored half of the time. Expressed in source pixels the crop is cut before anything is
scaled, so that only the pixels that are needed travel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = 0.45, 0.225  # of RGB in [0, 1], the official code's (x - 114.75) / 57.375


@dataclass(frozen=True)
class Crop:
    """A square in source pixels, and whether it is mirrored."""

    top: int
    left: int
    side: int
    flip: bool


def random_crop(height: int, width: int, size: int, scale: Sequence[int], flip: bool, rng: np.random.Generator) -> Crop:
    """What scaling the short side to U{scale[0]..scale[1]} and cutting `size` x `size` at random amounts to."""
    side = _source_side(height, width, size, int(rng.integers(scale[0], scale[1] + 1)))
    top = int(rng.integers(0, height - side + 1))
    left = int(rng.integers(0, width - side + 1))
    return Crop(top, left, side, bool(flip and rng.integers(0, 2)))


def center_crop(height: int, width: int, size: int, short_side: int) -> Crop:
    """The middle square of the video scaled to `short_side`."""
    side = _source_side(height, width, size, short_side)
    return Crop((height - side) // 2, (width - side) // 2, side, False)


def _source_side(height: int, width: int, size: int, short_side: int) -> int:
    short = min(height, width)
    return min(short, max(1, round(size * short / short_side)))


def prepare_clips(clips: Sequence[Tensor], flips: Tensor, size: int) -> Tensor:
    """Cut uint8 clips to network input: bilinear to `size`, mirrored where `flips`, normalised.

    Args:
        clips: B tensors (T, H_b, W_b, 3), uint8 RGB, of any sizes.
        flips: (B,) bool.
        size: the side of the result.

    Returns:
        (B, 3, T, size, size) float32.
    """
    out_BTCHW = torch.stack([_resize(clip.permute(0, 3, 1, 2), size) for clip in clips])
    out_BTCHW = torch.where(flips.view(-1, 1, 1, 1, 1), out_BTCHW.flip(-1), out_BTCHW)
    return ((out_BTCHW / 255 - MEAN) / STD).transpose(1, 2)


def _resize(frames_TCHW: Tensor, size: int) -> Tensor:
    frames_TCHW = frames_TCHW.float()
    if frames_TCHW.shape[-2:] == (size, size):
        return frames_TCHW
    return F.interpolate(frames_TCHW, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
