"""A batch norm whose statistics and scale no longer move, folded into one multiply and one add."""

from typing import Self

import torch
from torch import Tensor, nn


class FrozenAffine(nn.Module):
    """y = s * x + b, channel by channel, with s and b held fixed.

    where:
    - x and y are (B, C, ...).
    - s, b: (C,), `weight` and `bias` in the state dict, 1 and 0 at start. They are buffers, not parameters: no
      optimizer, weight decay or blanket `requires_grad_(True)` can reach them.

    The released long-clip networks train with this in place of batch norm, whose statistics over a few clips would be
    too noisy (section 4.1 of the paper).

    >>> import torch
    >>> from nlnet.layers import FrozenAffine
    >>> list(FrozenAffine(4).parameters())
    []

    Args:
        channels: C.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    def reset_parameters(self) -> None:
        """s = 1 and b = 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    @classmethod
    def from_batch_norm(cls, norm: nn.modules.batchnorm._BatchNorm) -> Self:
        """What `norm` computes in eval mode: s = gamma / sqrt(var + eps), b = beta - mean * s.

        Raises ValueError if `norm` keeps no running statistics.
        """
        mean, var = norm.running_mean, norm.running_var
        if mean is None or var is None:
            raise ValueError("FrozenAffine.from_batch_norm: the batch norm keeps no running statistics to freeze")
        affine = cls(norm.num_features).to(mean)
        with torch.no_grad():
            scale = (var.double() + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
            affine.weight.copy_(scale)
            affine.bias.copy_((0.0 if norm.bias is None else norm.bias.double()) - mean.double() * scale)
        return affine

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))

    def extra_repr(self) -> str:
        return str(self.channels)
