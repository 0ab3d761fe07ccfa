"""The parts that layers are made of: 1x1x1 convolutions and norms which know how they start in the layer.

Deferred initialization (`torch.device("meta")`, then `to_empty`) asks every module for its own parameters and buffers,
in any order. So a start that differs from PyTorch's is a matter of the part, and not only of the layer around it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nlnet.errors import UserError
from nlnet.layers.positions import project, to_map, to_positions
from nlnet.ops.derivatives import transformed

Start = Literal["default", "normal", "msra", "fan_in"]


class _PointConv:
    """A 1x1x1 convolution, by `start`: PyTorch's weights, N(0, 0.01), He's for D_out or He's for D_in; zero biases but
    for PyTorch's. With `zero` the weights are then set to zero, and biases too."""

    start: Start = "default"
    zero = False
    weight: Tensor
    bias: Tensor | None

    def reset_parameters(self) -> None:
        if self.start == "default":
            super().reset_parameters()  # type: ignore[misc]
        elif self.start == "normal":
            nn.init.normal_(self.weight, std=0.01)
        else:
            mode: Literal["fan_in", "fan_out"] = "fan_out" if self.start == "msra" else "fan_in"
            nn.init.kaiming_normal_(self.weight, mode=mode, nonlinearity="relu")
        if self.zero:
            nn.init.zeros_(self.weight)
        if self.bias is not None and (self.zero or self.start != "default"):
            nn.init.zeros_(self.bias)


class PointConv1d(_PointConv, nn.Conv1d):
    """A convolution with one tap in a sequence."""


class PointConv2d(_PointConv, nn.Conv2d):
    """A 1x1 convolution in an image."""


class PointConv3d(_PointConv, nn.Conv3d):
    """A 1x1x1 convolution in a video."""


class _Norm:
    """A batch norm whose scale starts at zero where `zero` says so."""

    zero = False

    def reset_parameters(self) -> None:
        super().reset_parameters()  # type: ignore[misc]
        if self.zero:
            nn.init.zeros_(self.weight)  # type: ignore[attr-defined]


class Norm1d(_Norm, nn.BatchNorm1d):
    """Batch norm in a sequence."""


class Norm2d(_Norm, nn.BatchNorm2d):
    """Batch norm in an image."""


class Norm3d(_Norm, nn.BatchNorm3d):
    """Batch norm in a video."""


POINT_CONV: dict[int, Any] = {1: PointConv1d, 2: PointConv2d, 3: PointConv3d}
NORM: dict[int, Any] = {1: Norm1d, 2: Norm2d, 3: Norm3d}


def point_conv(
    dims: int, channels: int, out_channels: int, *, bias: bool = True, start: Start = "default", zero: bool = False
) -> Any:
    """A 1x1x1 convolution that will start in this way when `reset_parameters` is called; it has PyTorch's weights."""
    conv = POINT_CONV[dims](channels, out_channels, kernel_size=1, bias=bias)
    conv.start, conv.zero = start, zero
    return conv


def is_plain(conv: nn.Module) -> bool:
    """Whether the weights say all about a part: it may then run as a matrix product.

    Not so behind a hook (spectral norm, weight norm and pruning of `torch.nn.utils`, or one's own), a parametrization
    or where another module stands in its place, such as an adapter: that has to be called.
    """
    hooked = conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks
    return type(conv) in POINT_CONV.values() and not hooked


def apply_at_positions(conv: Any, x_BNC: Tensor, size: Sequence[int], out_channels: int) -> Tensor:
    """conv of a list of positions (B, N, C) of a map of lengths `size`: (B, N, D).

    Raises UserError where what stands in the place of a convolution gives another shape.
    """
    if is_plain(conv):
        return project(x_BNC, conv.weight, conv.bias)
    return to_positions(called(conv, to_map(x_BNC, torch.Size(size)), out_channels))


def called(conv: nn.Module, x: Tensor, out_channels: int) -> Tensor:
    """conv(x), for what is not plain, on a map (B, C, [T, [H,]] W) -> (B, D, [T, [H,]] W)."""
    y = conv(x)
    wanted = (x.shape[0], out_channels, *x.shape[2:])
    if not isinstance(y, Tensor) or y.shape != wanted:
        got = tuple(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise UserError(
            f"NonLocalBlock: {type(conv).__name__} stands for a 1x1x1 convolution and has to map {tuple(x.shape)} to "
            f"{wanted}, not to {got}."
        )
    return y


def point_weight(conv: Any, channels: int) -> Tensor:
    """The weights (C,) of a 1x1 convolution C -> 1 without bias.

    What is not plain is asked for them: with the identity for an input, a linear map answers with its weights.
    Raises UserError where it is not linear.
    """
    if is_plain(conv):
        return conv.weight.flatten()
    like = next(t for t in (*conv.parameters(), *conv.buffers()) if t.is_floating_point())
    probe = torch.linspace(-1, 1, channels, dtype=like.dtype, device=like.device)
    zero, answer, *weights = conv(torch.stack([0 * probe, probe, *torch.eye(channels).to(like)])[..., None, None])
    weight = torch.stack(weights).flatten()
    if not torch.compiler.is_compiling() and not transformed():
        off = (answer - weight @ probe.to(weight.dtype)).abs().sum() + zero.abs().sum()
        if off > 100 * torch.finfo(weight.dtype).eps * (weight.abs() @ probe.abs().to(weight.dtype)):
            raise UserError(
                f"NonLocalBlock: concat_project is a {type(conv).__name__} that is not linear or has a bias; w_f . "
                "[theta_i, phi_j] is computed as a sum of two parts, so it has to be a product with weights."
            )
    return weight
