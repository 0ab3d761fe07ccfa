"""A network made ready for logits on a CPU: norms, ReLUs and sums become part of convolutions in oneDNN's layout."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nlnet.errors import UserError
from nlnet.layers import FrozenAffine, NonLocalBlock
from nlnet.layers.pointwise import is_plain
from nlnet.models.resnet3d import Bottleneck, ResNet3d

Model = TypeVar("Model", bound=nn.Module)
DTYPES = (torch.float32, torch.bfloat16)


class PackedConv3d(nn.Module):
    """A convolution with constant weights in the blocked layout that oneDNN computes in: (B, C, T, H, W) -> the same.

    `F.conv3d` unfolds its input for a plain matrix product, or reorders the weights at every call. Here they are
    reordered once for a size of the input, and again when that changes; input and output are channels last, in the
    weights' type. With `relu` the ReLU of the result is taken on its way.
    """

    def __init__(self, conv: nn.Conv3d, weight: Tensor, bias: Tensor | None, relu: bool = False) -> None:
        super().__init__()
        assert isinstance(conv.padding, tuple)
        self.geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self.relu = relu
        self._packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x_BCTHW: Tensor, plus: Tensor | None = None) -> Tensor:
        """The convolution, or its sum with `plus`, of the size of the result."""
        x = x_BCTHW.to(self.weight.dtype).contiguous(memory_format=torch.channels_last_3d)
        if self._packed is None or self._packed[0] != x.shape:
            reorder: Any = torch._C._nn.mkldnn_reorder_conv3d_weight
            self._packed = x.shape, reorder(self.weight.to_mkldnn(), *self.geometry, list(x.shape))
        given = self._packed[1], self.bias, *self.geometry
        convolution = torch.ops.mkldnn._convolution_pointwise
        if plus is None:
            return convolution(x, *given, "relu" if self.relu else "none", [], "")
        return convolution.binary(x, plus, *given, "add", 1.0, "relu" if self.relu else None, [], "")


class PackedBottleneck(nn.Module):
    """`nlnet.models.resnet3d.Bottleneck` as three convolutions, or four: (B, C, T, H, W) -> (B, C', T, H', W')."""

    def __init__(self, block: Bottleneck, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1 = _packed(block.conv1, block.bn1, dtype, relu=True)
        self.conv2 = _packed(block.conv2, block.bn2, dtype, relu=True)
        self.conv3 = _packed(block.conv3, block.bn3, dtype, relu=True)
        self.downsample: nn.Module = nn.Identity()
        if isinstance(block.downsample, nn.Sequential):
            projection, norm = block.downsample
            self.downsample = _packed(projection, norm, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x)), plus=self.downsample(x))


def optimize_for_inference(model: Model, dtype: torch.dtype = torch.float32) -> Model:
    """A copy of `model` in evaluation mode that gives its logits faster on a CPU; `model` stays as it is.

    In float32 the logits are the same but for rounding. In bfloat16 weights and activations take half the memory, and a
    processor with instructions for it (AVX-512 BF16, AMX) is about twice as fast; sums are kept in float32, and the
    logits come in it: of I3D-NL R50 with a relative error of 0.004 and a cosine of 0.99999.

    Batch norms, `FrozenAffine`s and ReLUs that follow a 3-D convolution in a Sequential become part of it, in the
    networks of `build_model` also those and the sums of residual blocks. Convolutions keep their weights as oneDNN
    wants them. The copy takes no gradients, and cannot be trained or saved. A model in another type than float32, or
    where PyTorch has no oneDNN, only has its norms folded.

    Raises UserError for a `dtype` that is none of the two, or where bfloat16 cannot be had.
    """
    if dtype not in DTYPES:
        raise UserError(f"optimize_for_inference: dtype={dtype}: expected {' or '.join(map(str, DTYPES))}")
    if dtype is torch.bfloat16:
        _check_bfloat16(model)
    fast = copy.deepcopy(model).requires_grad_(False).eval()
    for module in list(fast.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Bottleneck) and _can_pack(child):
                setattr(module, name, _with_hooks_of(child, PackedBottleneck(child, dtype)))
    for module in list(fast.modules()):
        if isinstance(module, NonLocalBlock):
            _fold_block(module)  # its 1x1x1 convolutions are matrix products already
            continue
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv3d) and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple):
                _replace(module, name, conv, dtype)
    return _in_bfloat16(fast) if dtype is torch.bfloat16 else fast


def _check_bfloat16(model: nn.Module) -> None:
    parameter = next(model.parameters(), None)
    if parameter is not None and (parameter.dtype, parameter.device.type) != (torch.float32, "cpu"):
        what = f"{str(parameter.dtype).removeprefix('torch.')} on {parameter.device}"
        raise UserError(
            f"optimize_for_inference: dtype=torch.bfloat16 is for models of float32 on a CPU, not of {what}"
        )
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        raise UserError(
            "optimize_for_inference: dtype=torch.bfloat16: PyTorch cannot compute in it on this processor (x86 needs"
            " AVX-512); take float32"
        )


def _in_bfloat16(fast: Model) -> Model:
    """All that is not a classifier in bfloat16; results come in float32."""
    classifiers = [fast.hidden, fast.fc] if isinstance(fast, ResNet3d) else []
    fast.to(torch.bfloat16)
    for classifier in classifiers:
        classifier.float().register_forward_pre_hook(lambda module, given: tuple(t.float() for t in given))
    fast.register_forward_hook(lambda module, given, result: tree_map(_wide, result))
    return fast


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype is torch.bfloat16 else value


def _can_pack(block: Bottleneck) -> bool:
    """Whether its parts are those that `Bottleneck` made, and weights of float32 on a CPU say all about them."""
    convs: list[nn.Module] = [block.conv1, block.conv2, block.conv3]
    norms = [block.bn1, block.bn2, block.bn3]
    if isinstance(block.downsample, nn.Sequential) and len(block.downsample) == 2:
        convs, norms = [*convs, block.downsample[0]], [*norms, block.downsample[1]]
    elif type(block.downsample) is not nn.Identity:
        return False
    plain = all(type(conv) is nn.Conv3d and not _is_watched(conv) and _packs(conv.weight) for conv in convs)
    return plain and all(_affine(norm) is not None for norm in norms)


def _is_watched(module: nn.Module) -> bool:
    """Whether a hook sees what goes into the module, or comes out of it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _packs(weight: Tensor) -> bool:
    return torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype is torch.float32


def _packed(conv: nn.Module, norm: nn.Module, dtype: torch.dtype, relu: bool = False) -> PackedConv3d:
    assert isinstance(conv, nn.Conv3d)
    weight, bias = _folded(conv, norm)
    return PackedConv3d(conv, weight.to(dtype), bias.to(dtype), relu)


def _folded(conv: Any, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the norm after it."""
    affine = _affine(norm)
    assert affine is not None
    scale, bias = affine.weight.to(conv.weight), affine.bias.to(conv.weight)
    if conv.bias is not None:
        bias = bias + scale * conv.bias
    return conv.weight * scale.view(-1, *(1,) * (conv.weight.ndim - 1)), bias


def _affine(norm: nn.Module) -> FrozenAffine | None:
    """What the norm does in evaluation, if that is one product and one sum a channel, and nobody looks on."""
    if _is_watched(norm):
        return None
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
        return FrozenAffine.from_batch_norm(norm)
    return norm if isinstance(norm, FrozenAffine) else None


def _with_hooks_of(old: nn.Module, new: nn.Module) -> nn.Module:
    """`new` with the hooks that wait for the input and the result of `old`."""
    new._forward_hooks, new._forward_pre_hooks = old._forward_hooks, old._forward_pre_hooks
    new._forward_hooks_with_kwargs = old._forward_hooks_with_kwargs
    new._forward_pre_hooks_with_kwargs = old._forward_pre_hooks_with_kwargs
    return new


def _fold_block(block: NonLocalBlock) -> None:
    """Put the norm at the end of a non-local block into its last convolution."""
    if is_plain(block.out) and _affine(block.norm) is not None:
        weight, bias = _folded(block.out, block.norm)
        block.out.weight, block.out.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        block.norm = nn.Identity()


def _replace(parent: nn.Module, name: str, conv: nn.Conv3d, dtype: torch.dtype) -> None:
    weight, bias = conv.weight, conv.bias
    norm = _norm_of(parent, name)
    if norm is not None:
        weight, bias = _folded(conv, parent.get_submodule(norm))
        setattr(parent, norm, nn.Identity())
    if not _packs(weight):
        conv.weight, conv.bias = nn.Parameter(weight, False), None if bias is None else nn.Parameter(bias, False)
        return
    relu = _relu_of(parent, norm or name)
    packed = PackedConv3d(conv, weight.to(dtype), None if bias is None else bias.to(dtype), relu is not None)
    setattr(parent, name, _with_hooks_of(conv, packed))
    if relu is not None:
        setattr(parent, relu, nn.Identity())


def _relu_of(parent: nn.Module, name: str) -> str | None:
    """The name of the ReLU that comes next in a Sequential, if nobody looks at what goes into it."""
    following = _following(parent, name)
    if following is None or _is_watched(parent.get_submodule(name)):
        return None
    relu = parent.get_submodule(following)
    return following if type(relu) is nn.ReLU and not _is_watched(relu) else None


def _norm_of(parent: nn.Module, name: str) -> str | None:
    """The name of the norm that takes the convolution's output, if it can become part of it."""
    # A name tells nothing in other modules: where the norm comes first, `bn1` takes what goes into `conv1`.
    following = name.replace("conv", "bn") if isinstance(parent, Bottleneck) else _following(parent, name)
    if following is None or _is_watched(parent.get_submodule(name)):
        return None
    norm = parent.get_submodule(following)
    return following if isinstance(norm, nn.BatchNorm3d | FrozenAffine) and _affine(norm) is not None else None


def _following(parent: nn.Module, name: str) -> str | None:
    """The name of the next module of a Sequential."""
    if not isinstance(parent, nn.Sequential) or type(parent).forward is not nn.Sequential.forward:
        return None
    names = list(parent._modules)
    return names[names.index(name) + 1] if name in names[:-1] else None
