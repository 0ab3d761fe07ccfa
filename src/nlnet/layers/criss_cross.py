"""Criss-cross attention (CCNet)."""

import torch
from torch import Tensor, nn

from nlnet.layers.dims import CONV, Layer, check_arguments, check_map
from nlnet.ops import criss_cross


class CrissCrossAttention(Layer):
    """x <- x + gamma * y(x), `recurrence` times;  y_i = sum_{j in cross(i)} softmax_j(query_i . key_j) value_j.

    where:
    - x (B, C, [T,] H, W) is the input and the output; cross(i) holds i's row and column (and line through time).
    - query, key: 1x1 convolutions C -> D, D = C/8; value: one C -> C.
    - gamma is learnt and starts at zero: a new layer is the identity.
    - recurrence: all rounds share their weights. After 2 of them in an image (3 in a video) every position has
      heard from every other one.

    The parameters have the names of the released code, so its weights load as they are.

    >>> import torch
    >>> from nlnet.layers import CrissCrossAttention
    >>> x = torch.randn(2, 16, 12, 12)
    >>> torch.equal(CrissCrossAttention(16)(x), x)  # the identity, until it is trained
    True

    Source: CCNet (Huang et al., ICCV 2019), sections 3.2 and 3.3.

    Args:
        channels: C.
        dims: 2 image, 3 video.
        inner_channels: D, C/8 (at least 1) if None.
        recurrence: the number of rounds, R in the paper.

    Raises ValueError if an argument or the input's shape does not fit.
    """

    def __init__(self, channels: int, dims: int = 2, *, inner_channels: int | None = None, recurrence: int = 2) -> None:
        super().__init__()
        inner = max(channels // 8, 1) if inner_channels is None else inner_channels
        check_arguments("CrissCrossAttention", dims, (channels, inner), allowed=(2, 3))
        if recurrence < 1:
            raise ValueError(f"CrissCrossAttention: recurrence must be at least 1, got {recurrence}")
        self.channels, self.dims, self.recurrence = channels, dims, recurrence
        conv = CONV[dims]
        self.query_conv = conv(channels, inner, kernel_size=1)
        self.key_conv = conv(channels, inner, kernel_size=1)
        self.value_conv = conv(channels, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """PyTorch's start for the convolutions, zero for gamma."""
        super().reset_parameters()
        nn.init.zeros_(self.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [T,] H, W) -> the same shape."""
        check_map("CrissCrossAttention", "x", x, self.channels, self.dims)
        for _ in range(self.recurrence):
            x = x + self.gamma * criss_cross(self.query_conv(x), self.key_conv(x), self.value_conv(x))
        return x

    def extra_repr(self) -> str:
        return f"recurrence={self.recurrence}"
