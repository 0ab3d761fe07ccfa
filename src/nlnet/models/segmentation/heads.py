"""Heads that turn the maps of a backbone into logits: a fully convolutional one with a block in it, and ANN's."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nlnet.errors import UserError
from nlnet.layers import (
    AFNB,
    APNB,
    CrissCrossAttention,
    DisentangledNonLocalBlock,
    GlobalContextBlock,
    NonLocalBlock,
)
from nlnet.models.options import check_one_of
from nlnet.models.segmentation.backbones import Maps


def _nonlocal(channels: int, **options: Any) -> nn.Module:
    chosen: dict[str, Any] = {"dims": 2, "preset": "mmcv", "subsample": False} | options
    return NonLocalBlock(channels, **chosen)


def _context(channels: int, **options: Any) -> nn.Module:
    options = {"ratio": 1 / 4} | options
    return GlobalContextBlock(channels, **options)


BLOCKS: Mapping[str, Callable[..., nn.Module]] = {
    "fcn": lambda channels: nn.Identity(),
    "nl": _nonlocal,
    "ccnet": CrissCrossAttention,
    "gcnet": _context,
    "dnl": DisentangledNonLocalBlock,
}
"""What stands between the convolutions of a `BlockHead`: a function of the channels and of options."""

HEADS = (*BLOCKS, "ann")


def build_head(
    name: str, maps: tuple[int, int], channels: int, num_classes: int, std: float, options: Mapping[str, Any]
) -> nn.Module:
    """The head of that name over maps of so many channels: `Maps` -> logits (B, num_classes, h, w).

    `std` is that of the classifier's first weights, `options` are those of the block.

    Raises UserError for an unknown name, and for options that its block does not have or refuses.
    """
    check_one_of("model name", name, HEADS)
    try:
        if name == "ann":
            return AsymmetricHead(*maps, channels, num_classes, std, **options)
        return BlockHead(maps[1], channels, num_classes, std, BLOCKS[name](channels, **options))
    except (TypeError, ValueError) as error:
        raise UserError(f"block_options: the block of {name} refuses them: {error}") from error


class BlockHead(nn.Module):
    """classifier(dropout(fuse([after(block(before(x))), x]))), x being the map of res5.

    `before`, `after` and `fuse` are 3x3 convolutions with batch norm and ReLU, the classifier is a 1x1 convolution.
    Without a block it is the head of FCN; it is the head of NonLocal, CCNet, GCNet and DNL in mmsegmentation, too.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, std: float, block: nn.Module) -> None:
        super().__init__()
        self.before = conv_norm_relu(in_channels, channels, 3)
        self.block = block
        self.after = conv_norm_relu(channels, channels, 3)
        self.fuse = conv_norm_relu(in_channels + channels, channels, 3)
        self.dropout, self.classifier = nn.Dropout2d(0.1), classifier(channels, num_classes, std)

    def forward(self, maps: Maps) -> Tensor:
        x = maps[1]
        y = self.after(self.block(self.before(x)))
        return self.classifier(self.dropout(self.fuse(torch.cat([x, y], dim=1))))


class AsymmetricHead(nn.Module):
    """classifier(dropout(APNB(reduce(AFNB(res4, res5))))): Zhu et al. (ICCV 2019), figure 3.

    `reduce` is a 3x3 convolution with batch norm and ReLU. Keys and values have half of `channels` channels.
    """

    def __init__(
        self, low_channels: int, high_channels: int, channels: int, num_classes: int, std: float, **options: Any
    ) -> None:
        super().__init__()
        options = {"key_channels": channels // 2, "value_channels": channels // 2} | options
        self.fusion = AFNB(low_channels, high_channels, **options)
        self.reduce = conv_norm_relu(high_channels, channels, 3)
        self.block = APNB(channels, **options)
        self.dropout, self.classifier = nn.Dropout2d(0.1), classifier(channels, num_classes, std)

    def forward(self, maps: Maps) -> Tensor:
        low, high = maps
        return self.classifier(self.dropout(self.block(self.reduce(self.fusion(low, high)))))


class AuxiliaryHead(nn.Module):
    """classifier(dropout(conv(x))), x being the map of res4: a 3x3 convolution with norm and ReLU, in training only."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, std: float) -> None:
        super().__init__()
        self.conv = conv_norm_relu(in_channels, channels, 3)
        self.dropout, self.classifier = nn.Dropout2d(0.1), classifier(channels, num_classes, std)

    def forward(self, maps: Maps) -> Tensor:
        return self.classifier(self.dropout(self.conv(maps[0])))


def conv_norm_relu(channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A convolution without a bias, batch norm, ReLU."""
    conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def classifier(channels: int, num_classes: int, std: float) -> nn.Conv2d:
    """A 1x1 convolution whose weights start at N(0, std)."""
    conv = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(conv.weight, std=std)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
