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

from nlnet.data.batches.clip_transforms import MEAN, STD
from nlnet.errors import UserError

PAPER_SCALE = 256  # pixels of the short side in the tests of the paper and the official code
CROPS = ("three", "center", "whole")


@dataclass(frozen=True)
class Views:
    """The views of a test.

    Args:
        clips: how many clips of each video.
        starts: where they start, a name in `nlnet.data.batches.sampling.STARTS`.
        scale: the short side in pixels that every frame is resized to; the long side is rounded down.
        crops: "three" squares along the longer side, at its beginning, middle and end; "center" for the middle one;
            "whole" for the frame as it is.
        size: the side of the squares.
        clips_per_forward: how many clips are in memory as network input at a time.
    """

    clips: int
    starts: str
    scale: int
    crops: str
    size: int
    clips_per_forward: int = 1

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


def make_views(video_NHWC: Tensor, clips_CT: Tensor, views: Views) -> Iterator[tuple[list[int], Tensor]]:
    """(numbers, network input (B, 3, T, h, w)) of all views of a video, some clips at a time.

    Views are numbered crop by crop, and clip by clip within a crop: number = crop * clips + clip.

    Args:
        video_NHWC: uint8 RGB frames.
        clips_CT: which frames each clip takes.
    """
    for first in range(0, len(clips_CT), views.clips_per_forward):
        part_CT = clips_CT[first : first + views.clips_per_forward]
        frames_TCHW = resize_short_side(video_NHWC[part_CT.flatten()].permute(0, 3, 1, 2), views.scale)
        inputs_CTCHW = ((frames_TCHW / 255 - MEAN) / STD).unflatten(0, part_CT.shape)
        for crop, cut_CTCHW in enumerate(cut(inputs_CTCHW, views.crops, views.size)):
            clips = range(first, first + len(part_CT))
            yield [crop * views.clips + clip for clip in clips], cut_CTCHW.transpose(1, 2)


def view_scores(
    net: nn.Module, video_NHWC: Tensor, clips_CT: Tensor, views: Views, kind: str, window: tuple[int, int] | None
) -> Tensor:
    """(V, K) float32 scores of every view: softmax (multilabel: sigmoid) at each position, then their mean.

    With a `window` `net` has `dense` as `nlnet.models.resnet3d.ResNet3d` does, and `window` is its second argument;
    without one a view is a call of `net`, and has one position.
    """
    scores: dict[int, Tensor] = {}
    for numbers, inputs in make_views(video_NHWC, clips_CT, views):
        logits_BPK = _position_logits(net, inputs, window).float()
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


def training_window(
    net: nn.Module, clip_shape: tuple[int, int, int, int], views: Views | None = None
) -> tuple[int, int] | None:
    """(rows, columns) of the last feature map of a training clip (3, T, size, size), found without computing it.

    None for a network without `dense`, which sees a view as a whole. Raises UserError where the views are whole frames:
    such a network was made for squares, and what it makes of them is not the paper's test. Raises UserError too where
    a view's feature map is smaller than the training clip's.
    """
    if not hasattr(net, "dense"):
        if views is not None and views.crops == "whole":
            raise UserError(
                f"{type(net).__name__} has no method dense(clip, window) as nlnet.build_model's networks do, which"
                " tests of whole frames need; use protocol=30view or protocol.crops=center"
            )
        return None
    with torch.no_grad():
        on_meta: Any = copy.deepcopy(net).eval().to("meta")
        rows, columns = on_meta.features(torch.empty(1, *clip_shape, device="meta")).shape[-2:]
        if views is not None:
            side = views.scale if views.crops == "whole" else views.size
            view = on_meta.features(torch.empty(1, *clip_shape[:2], side, side, device="meta")).shape[-2:]
            if view[0] < rows or view[1] < columns:
                raise UserError(
                    f"protocol.scale={views.scale} protocol.size={views.size}: the feature map of a view,"
                    f" {view[0]} x {view[1]}, is smaller than the {rows} x {columns} of a training clip"
                    f" (data.size={clip_shape[-1]}), which the test averages over; give larger views, or the"
                    " data.size that the network was trained on"
                )
    return rows, columns


def _position_logits(net: nn.Module, inputs: Tensor, window: tuple[int, int] | None) -> Tensor:
    """(B, P, K) logits of inputs (B, 3, T, h, w) at every position."""
    if window is None:
        return net(inputs)[:, None]
    dense: Any = net.dense
    return dense(inputs, window)
