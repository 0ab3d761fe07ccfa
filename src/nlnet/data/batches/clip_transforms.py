"""Spatial augmentation, in two halves: a worker draws and cuts the crop, the device resizes, flips and normalizes.

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


def color_factors(strength: float, rng: np.random.Generator) -> np.ndarray:
    """(3,) factors of brightness, contrast and saturation, each from U(1 - strength, 1 + strength); ones for 0."""
    return rng.uniform(max(0.0, 1 - strength), 1 + strength, 3) if strength else np.ones(3)


def prepare_clips(clips: Sequence[Tensor], flips: Tensor, size: int, colors: Tensor | None = None) -> Tensor:
    """Cut uint8 clips to network input: bilinear to `size`, mirrored where `flips`, colors changed, normalized.

    Args:
        clips: B tensors (T, H_b, W_b, 3), uint8 RGB, of any sizes.
        flips: (B,) bool.
        size: the side of the result.
        colors: (B, 3) factors of `color_factors`, the same for all frames of a clip; None changes nothing.

    Returns:
        (B, 3, T, size, size) float32.
    """
    out_BTCHW = torch.stack([resized(clip.permute(0, 3, 1, 2), size) for clip in clips])
    out_BTCHW = torch.where(flips.view(-1, 1, 1, 1, 1), out_BTCHW.flip(-1), out_BTCHW)
    out_BTCHW = out_BTCHW / 255  # float from here on
    if colors is not None:
        out_BTCHW = _change_colors(out_BTCHW, colors)
    return ((out_BTCHW - MEAN) / STD).transpose(1, 2)


def _change_colors(x_BTCHW: Tensor, colors: Tensor) -> Tensor:
    """Brightness b x, then contrast c x + (1 - c) mean(gray), then saturation s x + (1 - s) gray.

    The mean is over a frame; values stay in [0, 1] after each step; gray is 0.2989 R + 0.587 G + 0.114 B. All as in
    torchvision.
    """
    b, c, s = colors.view(-1, 3, 1, 1, 1, 1).unbind(1)
    x_BTCHW = (b * x_BTCHW).clamp(0, 1)
    x_BTCHW = (c * x_BTCHW + (1 - c) * _gray(x_BTCHW).mean((-3, -2, -1), keepdim=True)).clamp(0, 1)
    return (s * x_BTCHW + (1 - s) * _gray(x_BTCHW)).clamp(0, 1)


def _gray(x_BTCHW: Tensor) -> Tensor:
    red, green, blue = x_BTCHW.unbind(-3)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)


def resized(frames_TCHW: Tensor, size: int) -> Tensor:
    """The uint8 frames as (T, C, size, size): bilinear, with antialiasing where they get smaller.

    On a CPU they stay whole numbers, as in other programs: PyTorch has a kernel for these that is ten times as fast.
    The peak signal to noise to those that are not rounded, as on a GPU, is 57 dB.
    """
    if frames_TCHW.shape[-2:] == (size, size):
        return frames_TCHW
    # Enlarging, the antialiasing filter is the plain one, at four times the cost.
    smaller = min(frames_TCHW.shape[-2:]) > size
    given = frames_TCHW if frames_TCHW.device.type == "cpu" else frames_TCHW.float()
    return F.interpolate(given, size=(size, size), mode="bilinear", align_corners=False, antialias=smaller)
