"""The asymmetric non-local blocks (ANN): within a feature map, and from a high level of a network to a low one."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nlnet.layers.dims import BATCH_NORM, CONV, DROPOUT, Layer, check_arguments, check_map
from nlnet.layers.pointwise import point_conv
from nlnet.ops import PYRAMID, asymmetric


class _AsymmetricBlock(Layer):
    """fuse([W y, high]), y attending from the positions of high to the anchors of low: what APNB and AFNB share."""

    ratio: ClassVar[int]
    """C_high over D and E, where these are None."""
    two_maps: ClassVar[bool]
    """Whether low and high are two maps; else the key is the query too, and fuse ends with a ReLU."""

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        dims: int = 2,
        *,
        out_channels: int | None = None,
        key_channels: int | None = None,
        value_channels: int | None = None,
        sizes: Sequence[int | Sequence[int]] = PYRAMID,
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        out = high_channels if out_channels is None else out_channels
        inner = max(high_channels // self.ratio, 1)
        key = inner if key_channels is None else key_channels
        value = inner if value_channels is None else value_channels
        maps = (low_channels, high_channels) if self.two_maps else (high_channels,)
        check_arguments(type(self).__name__, dims, (*maps, out, key, value))
        self.low_channels, self.high_channels = low_channels, high_channels
        self.dims, self.sizes, self.scale = dims, tuple(sizes), key**-0.5
        if self.two_maps:
            self.query = _embedding(high_channels, key, dims)
        self.key = _embedding(low_channels, key, dims)
        self.value = CONV[dims](low_channels, value, kernel_size=1)
        self.out = _zero_conv(value, out, dims)
        conv_norm_relu = _embedding(out + high_channels, out, dims)
        self.fuse = nn.Sequential(*(conv_norm_relu[:2] if self.two_maps else conv_norm_relu), DROPOUT[dims](dropout))

    def _fuse(self, query: Tensor, key: Tensor, value: Tensor, high: Tensor) -> Tensor:
        y = asymmetric(query, key, value, sizes=self.sizes, scale=self.scale)
        return self.fuse(torch.cat([self.out(y), high], dim=1))


class APNB(_AsymmetricBlock):
    """z = fuse([W y, x]),  y_i = sum_s softmax_s(key(x)_i . P(key(x))_s / sqrt(D)) P(value(x))_s.

    where:
    - x (B, C, [T, [H,]] W) is the input, z (B, C_out, [T, [H,]] W) the output.
    - key: 1x1 convolution C -> D, batch norm, ReLU; it is the query too. value: 1x1 convolution C -> E.
    - P: `nlnet.ops.pyramid_pool`, which leaves S anchors: 110 in an image, whatever its size.
    - W: 1x1 convolution E -> C_out, zero at the start: a new block is fuse([0, x]) and attends to nothing.
    - [., .]: side by side in the channels; fuse: 1x1 convolution C_out + C -> C_out, batch norm, ReLU, dropout.

    Source: Asymmetric Non-local Neural Networks (Zhu et al., ICCV 2019), section 3.2, the "asymmetric pyramid
    non-local block".

    Args:
        channels: C.
        dims: 1 sequence, 2 image, 3 video.
        options: the keyword arguments of `AFNB`; where they are None, C_out is C, and D and E are C/2.

    Raises ValueError if an argument or the input's shape does not fit.

    >>> import torch
    >>> APNB(8, key_channels=2)(torch.randn(2, 8, 12, 12)).shape
    torch.Size([2, 8, 12, 12])
    """

    ratio, two_maps = 2, False

    def __init__(self, channels: int, dims: int = 2, **options: Any) -> None:
        super().__init__(channels, channels, dims, **options)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [T, [H,]] W) -> (B, C_out, [T, [H,]] W)."""
        check_map("APNB", "x", x, self.channels, self.dims)
        key = self.key(x)
        return self._fuse(key, key, self.value(x), x)


class AFNB(_AsymmetricBlock):
    """z = fuse([W y, high]),  y_i = sum_s softmax_s(query(high)_i . P(key(low))_s / sqrt(D)) P(value(low))_s.

    where:
    - low (B, C_low, [T', [H',]] W') and high (B, C_high, [T, [H,]] W) are maps of two levels of a network, of any two
      sizes; z (B, C_out, [T, [H,]] W) has that of high.
    - query: 1x1 convolution C_high -> D, batch norm, ReLU; key: the same from C_low; value: 1x1 convolution
      C_low -> E.
    - P, W, [., .]: as in `APNB`; fuse: 1x1 convolution C_out + C_high -> C_out, batch norm, dropout, and no ReLU.

    Source: Asymmetric Non-local Neural Networks (Zhu et al., ICCV 2019), section 3.3, the "asymmetric fusion
    non-local block".

    Args:
        low_channels: C_low.
        high_channels: C_high.
        dims: 1 sequence, 2 image, 3 video.
        out_channels: C_out, C_high if None.
        key_channels: D, C_high/8 if None, as in the published network.
        value_channels: E, C_high/8 if None.
        sizes: the grids of P: cells along every axis, or along each.
        dropout: the fraction of output channels dropped in training.

    Raises ValueError if an argument or an input's shape does not fit.

    >>> import torch
    >>> AFNB(4, 8)(low=torch.randn(2, 4, 24, 24), high=torch.randn(2, 8, 12, 12)).shape
    torch.Size([2, 8, 12, 12])
    """

    ratio, two_maps = 8, True

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (B, C_low, [T', [H',]] W'), high (B, C_high, [T, [H,]] W) -> (B, C_out, [T, [H,]] W)."""
        check_map("AFNB", "low", low, self.low_channels, self.dims)
        check_map("AFNB", "high", high, self.high_channels, self.dims)
        return self._fuse(self.query(high), self.key(low), self.value(low), high)


def _embedding(channels: int, out_channels: int, dims: int) -> nn.Sequential:
    conv = CONV[dims](channels, out_channels, kernel_size=1)
    return nn.Sequential(conv, BATCH_NORM[dims](out_channels), nn.ReLU(inplace=True))


def _zero_conv(channels: int, out_channels: int, dims: int) -> nn.Module:
    conv = point_conv(dims, channels, out_channels, zero=True)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv
