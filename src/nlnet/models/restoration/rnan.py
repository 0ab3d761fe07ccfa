"""The residual non-local attention network (RNAN)."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from nlnet.layers import NonLocalBlock
from nlnet.models.restoration.denoiser import Denoiser, conv3x3


class RNAN(Denoiser):
    """x + conv(the groups(conv(x))): residual attention modules, of which the first and the last look everywhere.

    A group is tail(u + trunk(u) * mask(u)) with u = block(x), and a convolution; trunk and tail are two residual blocks
    each. The mask is a sigmoid of features at half the resolution, added to those at the whole one. In the first group
    and the last it begins with a non-local block.

    8,957,249 parameters in the published size, for gray images (paper: 8.96 M).

    The softmax of the non-local block is over the keys j, as in the paper's equation. In the released code it is over
    the queries i (dimension 1 of f_ij): weights trained with it are for another network than this one.

    Source: Zhang et al., "Residual non-local attention networks for image restoration", ICLR 2019, section 3.

    Args:
        channels: of the images.
        width: channels of the features.
        inner_channels: of theta, phi and g.
        groups: modules, those with a non-local block among them; at least 2.
    """

    def __init__(self, channels: int, *, width: int = 64, inner_channels: int = 32, groups: int = 10) -> None:
        super().__init__(f"RNAN-{groups}", channels, reach=None)
        inner = [inner_channels, *[0] * (groups - 2), inner_channels]
        self.head = conv3x3(channels, width)
        self.groups = nn.Sequential(*(_Group(width, count) for count in inner[:-1]))
        self.middle = conv3x3(width, width)  # before the last group, as in the released code
        self.last = _Group(width, inner[-1])
        self.tail = conv3x3(width, channels)

    def residual(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.tail(self.last(self.middle(self.groups(self.head(images))))))


class _Group(nn.Module):
    def __init__(self, width: int, inner_channels: int) -> None:
        super().__init__()
        self.block = _ResidualBlock(width)
        self.trunk = nn.Sequential(_ResidualBlock(width), _ResidualBlock(width))
        self.mask = _Mask(width, inner_channels)
        self.tail = nn.Sequential(_ResidualBlock(width), _ResidualBlock(width))
        self.conv = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return cast(Tensor, self.conv(self.tail(x + self.trunk(x) * self.mask(x))))


class _Mask(nn.Module):
    def __init__(self, width: int, inner_channels: int) -> None:
        super().__init__()
        first: list[nn.Module] = [_ResidualBlock(width)]
        if inner_channels:
            first.insert(
                0,
                NonLocalBlock(
                    width,
                    2,
                    preset="paper",
                    inner_channels=inner_channels,
                    subsample=False,
                    norm="none",
                    zero_init="out",
                ),
            )
        self.first = nn.Sequential(*first)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.low = nn.Sequential(_ResidualBlock(width), _ResidualBlock(width))
        self.up = nn.ConvTranspose2d(width, width, 6, stride=2, padding=2)
        self.second = _ResidualBlock(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        low = self.up(self.low(self.down(x)))
        # One row or column more where there is an odd number. Padding by less than none is a slice that can be traced.
        low = F.pad(low, (0, x.shape[3] - low.shape[3], 0, x.shape[2] - low.shape[2]))
        return cast(Tensor, self.out(self.second(x + low)).sigmoid())


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv3x3(width, width), nn.ReLU(), conv3x3(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.layers(x))
