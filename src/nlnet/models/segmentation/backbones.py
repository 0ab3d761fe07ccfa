"""Residual networks of output stride 8: torchvision's with dilated last stages, and a small one for the demo."""

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from nlnet.models.options import check_one_of

Maps = tuple[Tensor, Tensor]
"""The maps of res4 and of res5, both an eighth of the image high and wide."""

_BLOCKS = {"r50": [3, 4, 6, 3], "r101": [3, 4, 23, 3]}
BACKBONES = (*_BLOCKS, "demo")
_DEMO_WIDTHS = (16, 32, 48, 64)


def build_backbone(name: str) -> "DilatedResNet | DemoBackbone":
    """The network of that name: image (B, 3, H, W) -> the maps of res4 and res5, of `channels` channels.

    Raises UserError for an unknown name.
    """
    check_one_of("backbone", name, BACKBONES)
    return DemoBackbone() if name == "demo" else DilatedResNet(_BLOCKS[name])


class DilatedResNet(ResNet):
    """torchvision's ResNet with stride 1 in res4 and res5, whose 3x3 kernels are dilated by 2 and by 4 instead.

    The first block of a dilated stage keeps the dilation of the stage before, as in mmsegmentation. The names of the
    parameters are torchvision's, so its ImageNet weights load as they are.
    """

    channels = (1024, 2048)

    def __init__(self, blocks: list[int]) -> None:
        super().__init__(Bottleneck, blocks, replace_stride_with_dilation=[False, True, True])
        del self.avgpool, self.fc

    def forward(self, x: Tensor) -> Maps:  # type: ignore[override]
        """(B, 3, H, W) -> (B, 1024, H/8, W/8), (B, 2048, H/8, W/8)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        res4 = self.layer3(self.layer2(self.layer1(x)))
        return res4, self.layer4(res4)


class DemoBackbone(nn.Module):
    """A residual network of 23,000 parameters that sees 15 x 15 pixels.

    A 3x3 stem of stride 2, then four stages of one block with 16, 32, 48 and 64 channels. Only the blocks of the first
    two, of stride 2, look at their neighbors; so what is far apart meets in the head or nowhere.
    """

    channels = _DEMO_WIDTHS[2:]

    def __init__(self) -> None:
        super().__init__()
        width = _DEMO_WIDTHS[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        for k, out in enumerate(_DEMO_WIDTHS, start=1):
            self.add_module(f"layer{k}", nn.Sequential(_DemoBlock(width, out, stride=2 if k <= 2 else 1)))
            width = out
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Maps:
        """(B, 3, H, W) -> (B, 48, H/8, W/8), (B, 64, H/8, W/8)."""
        low, high = [self.get_submodule(f"layer{k}") for k in (1, 2, 3)], self.get_submodule("layer4")
        x = self.stem(x)
        for stage in low:
            x = stage(x)
        return x, high(x)


class _DemoBlock(nn.Module):
    """ReLU(BN(conv(ReLU(BN(conv(x))))) + shortcut(x)): 3x3 and 1x1 with stride 2, 1x1 and 1x1 with stride 1."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        kernel = 3 if stride > 1 else 1
        self.conv1 = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()
