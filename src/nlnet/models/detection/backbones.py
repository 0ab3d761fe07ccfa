"""Residual networks with a feature pyramid, for detectors: torchvision's, ResNeXt-152, and a small one for the demo."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from nlnet.errors import UserError
from nlnet.models.options import check_one_of

NormLayer = Callable[[int], nn.Module]

# Residual blocks of res2 to res5, groups, width of a group.
_RESNETS = {"r50": ([3, 4, 6, 3], 1, 64), "r101": ([3, 4, 23, 3], 1, 64), "x152": ([3, 8, 36, 3], 32, 8)}
BACKBONES = (*_RESNETS, "demo")
NORMS = ("frozen", "batch", "sync", "group")
STAGES = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
"""The paper's names of the stages, and torchvision's."""

_DEMO_WIDTHS, _DEMO_BLOCKS, _DEMO_PYRAMID = (24, 32, 64, 96), (1, 1, 2, 1), 48


def build_backbone(name: str, norm: str, trainable_stages: int, frozen_eps: float) -> BackboneWithFPN:
    """The network and its pyramid: image (B, 3, H, W) -> maps of strides 4, 8, 16, 32 and 64, named as torchvision's.

    Args:
        name: r50, r101, x152 (ResNeXt-152 32x8d) or demo.
        norm: "frozen" (constant), "batch", "sync" (batch norm over all ranks) or "group" (32 groups, section 4 of
            Group Normalization; half the channels to a group where there are fewer). The pyramid has norms with "sync"
            and "group" only, as those papers do.
        trainable_stages: how many of res5, res4, res3, res2 and the stem learn, in this order.
        frozen_eps: added to the variance of frozen norms.

    Raises UserError for an unknown name or norm, or a number of stages outside 0 to 5.
    """
    check_one_of("backbone", name, BACKBONES)
    check_one_of("norm", norm, NORMS)
    if not 0 <= trainable_stages <= 5:
        raise UserError(f"trainable_stages={trainable_stages}: give 0 to 5; 3 keeps the stem and res2 as they are")
    make = norm_layer(norm, frozen_eps)
    body = DemoBody(make) if name == "demo" else _resnet(name, make)
    learning = ["layer4", "layer3", "layer2", "layer1", "conv1", "bn1"][: trainable_stages + (trainable_stages == 5)]
    for key, parameter in body.named_parameters():
        parameter.requires_grad_(key.split(".")[0] in learning)
    channels = list(_DEMO_WIDTHS) if name == "demo" else [256, 512, 1024, 2048]
    return BackboneWithFPN(
        body,
        {stage: str(level) for level, stage in enumerate(STAGES.values())},
        channels,
        _DEMO_PYRAMID if name == "demo" else 256,
        norm_layer=make if norm in ("sync", "group") else None,
    )


def norm_layer(norm: str, frozen_eps: float = 1e-5) -> NormLayer:
    """What makes a norm of so many channels."""
    if norm == "frozen":
        return partial(FrozenBatchNorm2d, eps=frozen_eps)
    if norm == "group":
        return lambda channels: nn.GroupNorm(min(32, channels // 2), channels)
    return nn.SyncBatchNorm if norm == "sync" else nn.BatchNorm2d


def _resnet(name: str, make: NormLayer) -> ResNet:
    blocks, groups, width = _RESNETS[name]
    return ResNet(Bottleneck, blocks, groups=groups, width_per_group=width, norm_layer=make)


class DemoBody(nn.Module):
    """A residual network of 0.3 M parameters for images of 128 x 128, with torchvision's names for its stages.

    A plain 3x3 stem of stride 2, then stages of stride 2 each with 24, 32, 64 and 96 channels and 1, 1, 2 and 1 blocks:
    the fewest with something right before the last block of res4.
    """

    def __init__(self, make: NormLayer) -> None:
        super().__init__()
        channels = _DEMO_WIDTHS[0]
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = make(channels)
        self.relu = nn.ReLU(inplace=True)
        for stage, width, count in zip(STAGES.values(), _DEMO_WIDTHS, _DEMO_BLOCKS, strict=True):
            blocks = [_block(channels, width, 2, make)] + [_block(width, width, 1, make) for _ in range(count - 1)]
            self.add_module(stage, nn.Sequential(*blocks))
            channels = width
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 96, H/32, W/32). The pyramid calls the parts one by one and takes each stage's output."""
        for part in self.children():
            x = part(x)
        return x


def _block(channels: int, width: int, stride: int, make: NormLayer) -> BasicBlock:
    shortcut = None
    if stride > 1 or channels != width:
        shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), make(width))
    return BasicBlock(channels, width, stride, shortcut, norm_layer=make)
