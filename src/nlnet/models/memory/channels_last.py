"""Weights in the channels-last layout, which convolutions of GPUs with tensor cores are faster in."""

import torch
from torch import Tensor, nn

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def to_channels_last(net: nn.Module) -> None:
    """Lay out every kernel of `net` with its channels last, in place: (O, H, W, I) or (O, T, H, W, I) in memory.

    Shapes, names and values stay. A convolution with such a kernel gives a map in the same layout, and so on.
    """
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.ndim in _FORMATS:
            tensor.data = _laid_out(tensor.data)


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=_FORMATS[tensor.ndim])
