"""A network made ready for logits on a CPU: norms folded into convolutions, and weights in oneDNN's own layout."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from nlnet.layers import NonLocalBlock

Model = TypeVar("Model", bound=nn.Module)


class PackedConv3d(nn.Module):
    """A convolution with constant weights in the blocked layout that oneDNN computes in: (B, C, T, H, W) -> the same.

    `F.conv3d` unfolds its input for a plain matrix product, or reorders the weights at every call. Here they are
    reordered once for a size of the input, and again when that changes; input and output are channels last.
    """

    def __init__(self, conv: nn.Conv3d, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        assert isinstance(conv.padding, tuple)
        self.geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self._packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        x = x_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        if self._packed is None or self._packed[0] != x.shape:
            reorder: Any = torch._C._nn.mkldnn_reorder_conv3d_weight
            self._packed = x.shape, reorder(self.weight.to_mkldnn(), *self.geometry, list(x.shape))
        return torch.ops.mkldnn._convolution_pointwise(x, self._packed[1], self.bias, *self.geometry, "none", [], "")


def optimize_for_inference(model: Model) -> Model:
    """A copy of `model` in evaluation mode that gives the same logits faster on a CPU; `model` stays as it is.

    Every batch norm right after a 3-D convolution (`conv1`, `bn1` and the like, or neighbors in a Sequential) becomes
    part of it, and convolutions keep their weights as oneDNN wants them. For float32 on a CPU, without gradients: the
    copy cannot be trained or saved. Where PyTorch has no oneDNN only the norms are folded.
    """
    fast = copy.deepcopy(model).requires_grad_(False).eval()
    for module in list(fast.modules()):
        if isinstance(module, NonLocalBlock):
            continue  # its 1x1x1 convolutions are matrix products already
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv3d) and conv.padding_mode == "zeros":
                _replace(module, name, conv)
    return fast


def _replace(parent: nn.Module, name: str, conv: nn.Conv3d) -> None:
    weight, bias = conv.weight, conv.bias
    norm = _norm_of(parent, name)
    if norm is not None:
        bn = parent.get_submodule(norm)
        assert isinstance(bn, nn.BatchNorm3d)
        assert bn.running_mean is not None
        assert bn.running_var is not None
        weight, bias = fuse_conv_bn_weights(weight, bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
        setattr(parent, norm, nn.Identity())
    if torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype is torch.float32:
        setattr(parent, name, PackedConv3d(conv, weight, bias))
    else:
        conv.weight, conv.bias = nn.Parameter(weight, False), None if bias is None else nn.Parameter(bias, False)


def _norm_of(parent: nn.Module, name: str) -> str | None:
    """The name of the batch norm that takes the convolution's output."""
    if isinstance(parent, nn.Sequential):
        names = [child for child, _ in parent.named_children()]
        following = names[names.index(name) + 1 :][:1]
    else:
        following = [name.replace("conv", "bn")]
    return next((n for n in following if isinstance(getattr(parent, n, None), nn.BatchNorm3d)), None)
