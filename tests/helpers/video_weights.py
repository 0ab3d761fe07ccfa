"""Random weights of video ResNets under the names of other programs, and what those programs compute with them.

A layer is (kind, stage, index): ("stem", 1, 0); "conv1" to "conv3" and "down" of a residual block; "theta", "phi", "g",
"out" and "block_norm" of a non-local block; ("fc", 0, 0). A convolution's own norm has the same layer.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Layer = tuple[str, int, int]
Name = Callable[[Layer, str], str]
"""(layer, part) -> key; a part is "weight" or "bias" of a convolution or the classifier, or a part of a norm."""

NORM_PARTS = ("norm.weight", "norm.bias", "norm.mean", "norm.var")
I3D = {2: {0, 1, 2}, 3: {0, 2}, 4: {*range(0, 23, 2)}, 5: {1}}
FIVE = {3: {1, 3}, 4: {1, 3, 5}}

GAINS = {"conv3": 0.3, "theta": 0.5, "phi": 0.5, "g": 0.5}
"""Of weights that keep a sum of many branches from growing."""


@dataclass(frozen=True)
class Layout:
    """What a network is made of."""

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    stem_frames: int = 5
    temporal: Mapping[int, set[int]] | None = None
    blocks: Mapping[int, set[int]] | None = None
    classes: int = 400
    norm_parts: tuple[str, ...] = NORM_PARTS
    block_norm: bool = True
    image: bool = False
    gains: Mapping[str, float] = field(default_factory=lambda: GAINS)

    def layers(self) -> Iterator[tuple[Layer, tuple[int, ...]]]:
        """Every layer with the shape of its weights."""
        yield ("stem", 1, 0), self.kernel(64, 3, self.stem_frames, 7)
        before = 64
        for stage, depth in enumerate(self.depths, start=2):
            width = 64 * 2 ** (stage - 2)
            for i in range(depth):
                t = 3 if i in (self.temporal or {}).get(stage, ()) else 1
                yield ("conv1", stage, i), self.kernel(width, before, t, 1)
                yield ("conv2", stage, i), self.kernel(width, width, 1, 3)
                yield ("conv3", stage, i), self.kernel(4 * width, width, 1, 1)
                if i == 0:
                    yield ("down", stage, i), self.kernel(4 * width, before, 1, 1)
                before = 4 * width
                if i in (self.blocks or {}).get(stage, ()):
                    for kind in ("theta", "phi", "g"):
                        yield (kind, stage, i), (before // 2, before, 1, 1, 1)
                    yield ("out", stage, i), (before, before // 2, 1, 1, 1)
        yield ("fc", 0, 0), (self.classes, before)

    def kernel(self, channels_out: int, channels_in: int, frames: int, size: int) -> tuple[int, ...]:
        return (channels_out, channels_in, *(() if self.image else (frames,)), size, size)


def random_weights(layout: Layout, name: Name, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep activations of order one, in float32."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def norm(layer: Layer, channels: int) -> None:
        for part in layout.norm_parts:
            spread = torch.rand(channels, generator=generator)
            state[name(layer, part)] = spread - 0.5 if part in ("norm.bias", "norm.mean") else spread * 0.6 + 0.5

    for layer, shape in layout.layers():
        kind = layer[0]
        fan_in = torch.Size(shape[1:]).numel()
        gain = layout.gains.get(kind, 1)
        state[name(layer, "weight")] = torch.randn(shape, generator=generator) * gain * (2 / fan_in) ** 0.5
        if kind in ("theta", "phi", "g", "out", "fc"):
            state[name(layer, "bias")] = torch.randn(shape[0], generator=generator) * 0.1
        elif kind != "fc":
            norm(layer, shape[0])
        if kind == "out" and layout.block_norm:
            norm(("block_norm", *layer[1:]), shape[0])
    return state


def constant_weights(layout: Layout, name: Name) -> dict[str, Tensor]:
    """Another constant for every tensor, each in memory and in a PyTorch file once: quick, if values do not matter."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in layout.layers():
        shapes[name(layer, "weight")] = shape
        parts = ("bias",) if layer[0] == "fc" else layout.norm_parts
        shapes |= {name(layer, part): shape[:1] for part in parts}
    return {key: torch.tensor(float(i + 1)).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


@dataclass(frozen=True)
class Program:
    """How a program wires the layers: strides, pools, and what its non-local block does."""

    stem_stride: int
    pool1: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
    """Kernel, stride, padding."""
    pool2: bool = True
    subsample: bool = True
    softmax: bool = True
    group_frames: Mapping[int, int] | None = None
    strides: Mapping[int, int] = field(default_factory=dict)
    """Of stages, where not 1 in res2 and 2 in the others."""
    dilations: Mapping[int, int] = field(default_factory=dict)


def forward(layout: Layout, program: Program, weights: Mapping[str, Tensor], name: Name, x: Tensor) -> Tensor:
    """The logits of a clip (B, 3, T, H, W), written out in float64 with the whole affinity map in memory."""

    def w(layer: Layer, part: str = "weight") -> Tensor:
        return weights[name(layer, part)].double()

    def norm(y: Tensor, layer: Layer) -> Tensor:
        scale, shift = w(layer, "norm.weight"), w(layer, "norm.bias")
        if "norm.mean" in layout.norm_parts:
            scale = scale / (w(layer, "norm.var") + 1e-5).sqrt()
            shift = shift - w(layer, "norm.mean") * scale
        return y * scale.view(1, -1, 1, 1, 1) + shift.view(1, -1, 1, 1, 1)

    def conv(y: Tensor, layer: Layer, stride: int = 1) -> Tensor:
        kernel = w(layer).unsqueeze(2) if layout.image else w(layer)
        frames = program.stem_stride if layer[0] == "stem" else 1
        spread = program.dilations.get(layer[1], 1) if layer[0] == "conv2" else 1
        t, row, column = (n // 2 for n in kernel.shape[2:])
        padding, dilation = (t, row * spread, column * spread), (1, spread, spread)
        return norm(F.conv3d(y, kernel, stride=(frames, stride, stride), padding=padding, dilation=dilation), layer)

    def block(y: Tensor, stage: int, i: int) -> Tensor:
        groups = (program.group_frames or {}).get(stage)
        if groups:
            return torch.cat([attend(part, stage, i) for part in y.split(groups, dim=2)], dim=2)
        return attend(y, stage, i)

    def attend(y: Tensor, stage: int, i: int) -> Tensor:
        keys = F.max_pool3d(y, (1, 2, 2)) if program.subsample else y
        theta, phi, g = (
            F.conv3d(source, w((kind, stage, i)), w((kind, stage, i), "bias")).flatten(2)
            for kind, source in (("theta", y), ("phi", keys), ("g", keys))
        )
        f = torch.einsum("bdi,bdj->bij", theta, phi)
        f = (f * theta.shape[1] ** -0.5).softmax(2) if program.softmax else f / f.shape[2]
        out = torch.einsum("bij,bdj->bdi", f, g).unflatten(2, y.shape[2:])
        out = F.conv3d(out, w(("out", stage, i)), w(("out", stage, i), "bias"))
        return y + (norm(out, ("block_norm", stage, i)) if layout.block_norm else out)

    y = F.max_pool3d(conv(x.double(), ("stem", 1, 0), 2).relu(), *program.pool1)
    for stage, depth in enumerate(layout.depths, start=2):
        for i in range(depth):
            stride = program.strides.get(stage, 2 if stage > 2 else 1) if i == 0 else 1
            z = conv(y, ("conv1", stage, i)).relu()
            z = conv(conv(z, ("conv2", stage, i), stride).relu(), ("conv3", stage, i))
            y = (z + (conv(y, ("down", stage, i), stride) if i == 0 else y)).relu()
            if i in (layout.blocks or {}).get(stage, ()):
                y = block(y, stage, i)
        if stage == 2 and program.pool2:
            y = F.max_pool3d(y, (2, 1, 1))
    return F.linear(y.mean((2, 3, 4)), w(("fc", 0, 0)), w(("fc", 0, 0), "bias"))


def relative(got: Tensor, wanted: Any) -> float:
    """The largest difference over the largest magnitude."""
    wanted = torch.as_tensor(wanted).double()
    return float((got.double() - wanted).abs().max() / wanted.abs().max())
