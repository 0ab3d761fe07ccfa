"""A network for segmentation from a backbone, a head and its width."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet.errors import UserError
from nlnet.models.segmentation.backbones import Maps, build_backbone
from nlnet.models.segmentation.heads import AuxiliaryHead, build_head

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TITLES = {"fcn": "FCN", "nl": "NonLocal", "ann": "ANN", "ccnet": "CCNet", "gcnet": "GCNet", "dnl": "DNL"}
_DEMO_STARTS: Mapping[str, Mapping[str, Any]] = {"nl": {"zero_init": "none"}, "dnl": {"zero_init": False}}


class Segmenter(nn.Module):
    """Image (B, 3, H, W) in 0 to 1, RGB -> logits (B, K, H, W), those of the maps interpolated to the pixels.

    Args:
        title: what people call it, such as "CCNet R50-D8".
        backbone: image -> the maps of res4 and res5.
        head: these maps -> logits.
        auxiliary: these maps -> logits, for a second loss in training.
    """

    mean: Tensor
    std: Tensor
    least = (16, 16)  # of an image, for what exports the network

    def __init__(self, title: str, backbone: nn.Module, head: nn.Module, auxiliary: nn.Module) -> None:
        super().__init__()
        self.title, self.backbone, self.head, self.auxiliary = title, backbone, head, auxiliary
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return _at_pixels(self.head(self._maps(images)), images)

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of both heads, each (B, K, H, W)."""
        maps = self._maps(images)
        return _at_pixels(self.head(maps), images), _at_pixels(self.auxiliary(maps), images)

    def _maps(self, images: Tensor) -> Maps:
        return self.backbone((images - self.mean) / self.std)


def _at_pixels(logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def build_segmenter(
    name: str,
    backbone: str = "r50",
    *,
    num_classes: int,
    channels: int = 512,
    block_options: Mapping[str, Any] | None = None,
) -> Segmenter:
    """The network with this head on this backbone, both of output stride 8.

    Args:
        name: of the head: "fcn", "nl" (a non-local block), "ann" (AFNB and APNB), "ccnet" (criss-cross attention,
            twice), "gcnet" (a global context block) or "dnl" (a disentangled non-local block).
        backbone: "r50", "r101", or "demo", for images of 64 x 128.
        num_classes: K.
        channels: of the head; half as many of the auxiliary head.
        block_options: of the head's block: keyword arguments of `NonLocalBlock`, `APNB` and `AFNB`,
            `CrissCrossAttention`, `GlobalContextBlock` or `DisentangledNonLocalBlock`; None and {} for the published.

    Raises UserError for an unknown name, a number that cannot be, or options that the block refuses.
    """
    if num_classes < 2:
        raise UserError(f"num_classes={num_classes}: pixels are told apart by two classes or more")
    if channels < 8:
        raise UserError(f"channels={channels}: give at least 8")
    body = build_backbone(backbone)
    # In the few steps of the demo a classifier from 0.01 and a block from zero would stay behind.
    std, starts = (0.3, _DEMO_STARTS.get(name, {})) if backbone == "demo" else (0.01, {})
    top = build_head(name, body.channels, channels, num_classes, std, {**starts, **(block_options or {})})
    title = f"{_TITLES[name]} {backbone if backbone == 'demo' else backbone.upper()}-D8"
    return Segmenter(title, body, top, AuxiliaryHead(body.channels[0], channels // 2, num_classes, std))
