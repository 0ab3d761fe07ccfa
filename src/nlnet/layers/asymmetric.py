"""The asymmetric non-local blocks (ANN): within a feature map, and from a high level of a network to a low one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nlnet.layers.dims import BATCH_NORM, CONV, DROPOUT, check_arguments, check_map
from nlnet.ops import PYRAMID, asymmetric


class APNB(nn.Module):
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
        out_channels: C_out, C if None.
        key_channels: D, C/2 if None.
        value_channels: E, C/2 if None.
        sizes: the grids of P: cells along every axis, or along each.
        dropout: the share of output channels dropped in training.

    Raises ValueError if an argument or the input's shape does not fit.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        *,
        out_channels: int | None = None,
        key_channels: int | None = None,
        value_channels: int | None = None,
        sizes: Sequence[int | Sequence[int]] = PYRAMID,
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        out = channels if out_channels is None else out_channels
        key = max(channels // 2, 1) if key_channels is None else key_channels
        value = max(channels // 2, 1) if value_channels is None else value_channels
        check_arguments("APNB", dims, (channels, out, key, value))
        self.channels, self.dims, self.sizes, self.scale = channels, dims, tuple(sizes), key**-0.5
        self.key = _embedding(channels, key, dims)
        self.value = CONV[dims](channels, value, kernel_size=1)
        self.out = _zero_conv(value, out, dims)
        self.fuse = nn.Sequential(*_embedding(out + channels, out, dims), DROPOUT[dims](dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [T, [H,]] W) -> (B, C_out, [T, [H,]] W)."""
        check_map("APNB", "x", x, self.channels, self.dims)
        key = self.key(x)
        y = asymmetric(key, key, self.value(x), sizes=self.sizes, scale=self.scale)
        return self.fuse(torch.cat([self.out(y), x], dim=1))


class AFNB(nn.Module):
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
        dropout: the share of output channels dropped in training.

    Raises ValueError if an argument or an input's shape does not fit.
    """

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
        key = max(high_channels // 8, 1) if key_channels is None else key_channels
        value = max(high_channels // 8, 1) if value_channels is None else value_channels
        check_arguments("AFNB", dims, (low_channels, high_channels, out, key, value))
        self.low_channels, self.high_channels = low_channels, high_channels
        self.dims, self.sizes, self.scale = dims, tuple(sizes), key**-0.5
        self.query = _embedding(high_channels, key, dims)
        self.key = _embedding(low_channels, key, dims)
        self.value = CONV[dims](low_channels, value, kernel_size=1)
        self.out = _zero_conv(value, out, dims)
        fuse = CONV[dims](out + high_channels, out, kernel_size=1)
        self.fuse = nn.Sequential(fuse, BATCH_NORM[dims](out), DROPOUT[dims](dropout))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (B, C_low, [T', [H',]] W'), high (B, C_high, [T, [H,]] W) -> (B, C_out, [T, [H,]] W)."""
        check_map("AFNB", "low", low, self.low_channels, self.dims)
        check_map("AFNB", "high", high, self.high_channels, self.dims)
        y = asymmetric(self.query(high), self.key(low), self.value(low), sizes=self.sizes, scale=self.scale)
        return self.fuse(torch.cat([self.out(y), high], dim=1))


def _embedding(channels: int, out_channels: int, dims: int) -> nn.Sequential:
    conv = CONV[dims](channels, out_channels, kernel_size=1)
    return nn.Sequential(conv, BATCH_NORM[dims](out_channels), nn.ReLU(inplace=True))


def _zero_conv(channels: int, out_channels: int, dims: int) -> nn.Module:
    conv = CONV[dims](channels, out_channels, kernel_size=1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv
