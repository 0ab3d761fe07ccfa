"""The global context block (GCNet)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from nlnet.layers.dims import CONV, Layer, check_arguments, check_map
from nlnet.layers.pointwise import point_conv
from nlnet.ops import global_context


class GlobalContextBlock(Layer):
    """z_i = x_i * sigmoid(t_mul(y)) + t_add(y),  y = sum_j softmax_j(mask(x_j)) x_j,  t(y) = W2 ReLU(LN(W1 y)).

    where:
    - x (B, C, [T, [H,]] W) is the input, z of the same shape the output; y (B, C) is the same for all positions i.
    - mask: a 1x1 convolution C -> 1. With pooling "avg" y is the mean of x and there is no mask.
    - t_add, t_mul: W1 a 1x1 convolution C -> ratio C, LN a layer norm, W2 a 1x1 convolution back. `fusion` says which
      of the two are there. W2 starts at zero: a new block with "channel_add" alone is the identity, and one with
      "channel_mul" halves x, as the released code does.

    The parameters have the names and the order of the released code (conv_mask, channel_add_conv.{0,1,3},
    channel_mul_conv.{0,1,3}), so its weights load as they are.

    >>> import torch
    >>> from nlnet.layers import GlobalContextBlock
    >>> x = torch.randn(2, 16, 12, 12)
    >>> torch.equal(GlobalContextBlock(16)(x), x)  # the identity, until it is trained
    True

    Source: GCNet (Cao et al., ICCV workshops 2019), the global context block.

    Args:
        channels: C.
        dims: 1 sequence, 2 image, 3 video.
        ratio: the width of the bottleneck over C; 1/16 and 1/4 are the paper's.
        pooling: "att" (the paper) or "avg".
        fusion: "channel_add" (the paper), "channel_mul", or both.

    Raises ValueError if an argument or the input's shape does not fit.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        *,
        ratio: float = 1 / 16,
        pooling: Literal["att", "avg"] = "att",
        fusion: Sequence[str] = ("channel_add",),
    ) -> None:
        super().__init__()
        check_arguments("GlobalContextBlock", dims, (channels,))
        if pooling not in ("att", "avg"):
            raise ValueError(f"GlobalContextBlock: pooling must be 'att' or 'avg', got {pooling!r}")
        if not fusion or not set(fusion) <= {"channel_add", "channel_mul"} or isinstance(fusion, str):
            raise ValueError(
                f"GlobalContextBlock: fusion must hold 'channel_add', 'channel_mul' or both, got {fusion!r}"
            )
        inner = int(channels * ratio)
        if inner < 1:
            raise ValueError(f"GlobalContextBlock: {channels} channels at a ratio of {ratio:.4g} leave none")
        self.channels, self.dims = channels, dims
        self.conv_mask = point_conv(dims, channels, 1, start="fan_in") if pooling == "att" else None
        self.channel_add_conv = _transform(channels, inner, dims) if "channel_add" in fusion else None
        self.channel_mul_conv = _transform(channels, inner, dims) if "channel_mul" in fusion else None
        if self.conv_mask is not None:
            self.conv_mask.reset_parameters()
        for transform in (self.channel_add_conv, self.channel_mul_conv):
            for parameter in () if transform is None else transform[-1].parameters():
                nn.init.zeros_(parameter)

    def context(self, x: Tensor) -> Tensor:
        """y: (B, C, [T, [H,]] W) -> (B, C, [1, [1,]] 1)."""
        x_BCM = x.flatten(2)
        if self.conv_mask is None:
            y_BC = x_BCM.mean(dim=2)
        else:
            a_BM = self.conv_mask(x).flatten(1)
            y_BC = global_context(a_BM.to(x.dtype), x_BCM.transpose(1, 2))  # under autocast they differ
        return y_BC.view(*y_BC.shape, *[1] * self.dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [T, [H,]] W) -> the same shape."""
        check_map("GlobalContextBlock", "x", x, self.channels, self.dims)
        y = self.context(x)
        if self.channel_mul_conv is not None:
            x = x * self.channel_mul_conv(y).sigmoid()
        if self.channel_add_conv is not None:
            x = x + self.channel_add_conv(y)
        return x


def _transform(channels: int, inner: int, dims: int) -> nn.Sequential:
    """W2 ReLU(LN(W1 y)), on y (B, C, [1, [1,]] 1)."""
    conv = CONV[dims]
    return nn.Sequential(
        conv(channels, inner, kernel_size=1),
        nn.LayerNorm([inner, *[1] * dims]),
        nn.ReLU(inplace=True),
        point_conv(dims, inner, channels, zero=True),
    )
