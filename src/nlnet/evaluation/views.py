"""A video's score from many views: clips x crops, at every position of the last feature map (paper section 4.1).

Shapes: N frames of a video, C clips of T frames, V views, P positions, K classes.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet.data.augment import MEAN, STD
from nlnet.errors import UserError

PAPER_SCALE = 256  # pixels of the short side in the tests of the paper and the official code
CROPS = ("three", "centre", "whole")


@dataclass(frozen=True)
class Views:
    """The views of a test.

    Args:
        clips: how many clips of each video.
        starts: where they start, a name in `nlnet.data.clips.STARTS`.
        scale: the short side in pixels that every frame is resized to; the long side is rounded down.
        crops: "three" squares along the longer side, at its beginning, middle and end; "centre" for the middle one;
            "whole" for the frame as it is.
        size: the side of the squares.
        together: how many clips are in memory as network input at a time.
    """

    clips: int
    starts: str
    scale: int
    crops: str
    size: int
    together: int = 1

    @property
    def per_video(self) -> int:
        """V, the number of views: clips x crops."""
        return self.clips * (3 if self.crops == "three" else 1)


def resize_short_side(frames_TCHW: Tensor, scale: int) -> Tensor:
    """Frames (T, C, H, W) with a short side of `scale` pixels, bilinear with a low-pass filter, as float."""
    frames_TCHW = frames_TCHW.float()
    height, width = frames_TCHW.shape[-2:]
    short = min(height, width)
    if short == scale:
        return frames_TCHW
    sides = (height * scale // short, width * scale // short)
    return F.interpolate(frames_TCHW, size=sides, mode="bilinear", align_corners=False, antialias=True)


def cut(frames: Tensor, crops: str, size: int) -> list[Tensor]:
    """The crops (..., size, size) of frames (..., H, W), in order; see `Views`."""
    height, width = frames.shape[-2:]
    if crops == "whole":
        return [frames]
    middle = (height - size) // 2, (width - size) // 2
    corners = [middle]
    if crops == "three":
        down, right = height - size, width - size
        corners = [(0, middle[1]), middle, (down, middle[1])] if height > width else []
        corners = corners or [(middle[0], 0), middle, (middle[0], right)]
    return [frames[..., top : top + size, left : left + size] for top, left in corners]


def make_views(video_NHWC: Tensor, places_CT: Tensor, views: Views) -> Iterator[tuple[list[int], Tensor]]:
    """(numbers, network input (B, 3, T, h, w)) of all views of a video, some clips at a time.

    Views are numbered crop by crop, and clip by clip within a crop: number = crop * clips + clip.

    Args:
        video_NHWC: uint8 RGB frames.
        places_CT: which frames each clip takes.
    """
    for first in range(0, len(places_CT), views.together):
        part_CT = places_CT[first : first + views.together]
        frames_TCHW = resize_short_side(video_NHWC[part_CT.flatten()].permute(0, 3, 1, 2), views.scale)
        inputs_CTCHW = ((frames_TCHW / 255 - MEAN) / STD).unflatten(0, part_CT.shape)
        for crop, cut_CTCHW in enumerate(cut(inputs_CTCHW, views.crops, views.size)):
            clips = range(first, first + len(part_CT))
            yield [crop * views.clips + clip for clip in clips], cut_CTCHW.transpose(1, 2)


def view_scores(
    net: nn.Module, video_NHWC: Tensor, places_CT: Tensor, views: Views, kind: str, window: tuple[int, int]
) -> Tensor:
    """(V, K) float32 scores of every view: softmax (multilabel: sigmoid) at each position, then their mean.

    `net` has `dense` as `nlnet.models.resnet3d.ResNet3d` does; `window` is its second argument.
    """
    dense: Any = net.dense
    scores: dict[int, Tensor] = {}
    for numbers, inputs in make_views(video_NHWC, places_CT, views):
        logits_BPK = dense(inputs, window).float()
        probabilities = logits_BPK.sigmoid() if kind == "multilabel" else logits_BPK.softmax(-1)
        scores.update(zip(numbers, probabilities.mean(1), strict=True))
    return torch.stack([scores[number] for number in range(views.per_video)])


def combine(views_VK: np.ndarray, kind: str) -> np.ndarray:
    """(..., K) float32, a video's scores from those of its views (..., V, K): their sum; multilabel: their maximum.

    The sum, in float64 and rounded once, is the test of Kinetics, the maximum that of Charades.
    """
    if kind == "multilabel":
        return views_VK.max(-2)
    return views_VK.sum(-2, dtype=np.float64).astype(np.float32)


def training_window(net: nn.Module, clip_shape: tuple[int, int, int, int]) -> tuple[int, int]:
    """(rows, columns) of the last feature map of a training clip (3, T, size, size), found without computing it.

    Raises UserError for a network without `dense`, which cannot be applied to frames of any size.
    """
    if not hasattr(net, "dense"):
        raise UserError(
            f"{type(net).__name__} has no method dense(clip, window) as nlnet.build_model's networks do, which tests"
            " with many views need; use protocol=center"
        )
    with torch.no_grad():
        on_meta: Any = copy.deepcopy(net).eval().to("meta")
        shape = on_meta.features(torch.empty(1, *clip_shape, device="meta")).shape
    return shape[-2], shape[-1]
