"""What a network makes of an image when it is tested: whole or window by window, mirrored, at several scales."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nlnet.errors import UserError

Network = Callable[[Tensor], Tensor]
"""Image (B, 3, H, W) -> logits (B, K, H, W)."""


@dataclass(frozen=True)
class Views:
    """How an image is looked at.

    Args:
        window: (H, W) of the windows that it is cut in; None for the whole image at once.
        stride: (H, W) from one window to the next, at most a window.
        scales: the sizes that it is looked at in, as multiples of its own; the scores of all are averaged.
        flip: look at its mirror image, too.
    """

    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales={list(self.scales)}: give one number above 0, or several")
        for key, pair in (("window", self.window), ("stride", self.stride)):
            if pair is not None and (len(pair) != 2 or min(pair) < 1):
                raise UserError(f"{key}={list(pair)}: give height and width in pixels, at least 1")
        if self.stride is None:
            return
        if self.window is None:
            raise UserError(f"stride={list(self.stride)}: is of windows; give window=[H,W], too")
        if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
            raise UserError(f"stride={list(self.stride)} leaves gaps between windows of {list(self.window)}")


def scores(net: Network, images: Tensor, views: Views) -> Tensor:
    """The probabilities of the classes at every pixel of `images` (B, 3, H, W): (B, K, H, W), their mean over views.

    A view's logits are resized to the image, then their softmax is taken.
    """
    total: Tensor | None = None
    for scale in views.scales:
        size = [max(1, round(side * scale)) for side in images.shape[-2:]]
        resized = images if scale == 1 else F.interpolate(images, size, mode="bilinear", align_corners=False)
        for mirrored in (False, True) if views.flip else (False,):
            logits = logits_of(net, resized.flip(-1) if mirrored else resized, views.window, views.stride)
            logits = logits.flip(-1) if mirrored else logits
            if logits.shape[-2:] != images.shape[-2:]:
                logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
            share = logits.float().softmax(1) / (len(views.scales) * (1 + views.flip))
            total = share if total is None else total + share
    assert total is not None
    return total


def logits_of(
    net: Network, images: Tensor, window: Sequence[int] | None, stride: Sequence[int] | None = None
) -> Tensor:
    """The logits of `images` (B, 3, H, W), each pixel's the mean of those of the windows that it lies in.

    A window that would reach over the edge is moved back into the image; in an image that is smaller a window is as
    large as the image. The stride is two thirds of a window if None.
    """
    if window is None:
        return net(images)
    steps = stride or [max(1, -(-2 * side // 3)) for side in window]
    tops, lefts = (_starts(images.shape[2 + k], window[k], steps[k]) for k in (0, 1))
    total: Tensor | None = None
    count = images.new_zeros(images.shape[-2:])
    for top in tops:
        for left in lefts:
            place = ..., slice(top, top + window[0]), slice(left, left + window[1])
            logits = net(images[place])
            if total is None:
                total = logits.new_zeros((*logits.shape[:2], *images.shape[-2:]))
            total[place] += logits
            count[place] += 1
    assert total is not None
    return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: every `stride` pixels, the last one so that it ends with the image."""
    last = max(length - window, 0)
    return [min(start, last) for start in range(0, last + stride, stride)]


def labels(probabilities: Tensor, size: Sequence[int]) -> Tensor:
    """(B, h, w) uint8: the likeliest class at every pixel of an image of `size` (h, w), the probabilities resized.

    Class by class, as K maps of a large image would not fit.
    """
    best: Tensor | None = None
    found = torch.zeros((len(probabilities), *size), dtype=torch.uint8, device=probabilities.device)
    for k in range(probabilities.shape[1]):
        here = F.interpolate(probabilities[:, k : k + 1], list(size), mode="bilinear", align_corners=False)[:, 0]
        if best is None:
            best = here
        else:
            higher = here > best
            found[higher] = k
            best = torch.where(higher, here, best)
    return found
