"""C2D and I3D residual networks (table 1 and section 4 of the paper).

Shapes: B clips, C channels, T frames, H rows, W columns.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Stem:
    """The first convolution with its pool.

    `kernel` and `stride` are (T, H, W); `pool` is the max pool after it, None where there is none.
    """

    channels: int
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    pool: nn.MaxPool3d | None = None


@dataclass(frozen=True)
class Stage:
    """A run of residual blocks at one resolution: `blocks` bottlenecks `width` wide inside and `channels` wide outside.

    `stride` is the first block's, along H and W; `temporal` are the blocks whose first kernel is 3x1x1 (I3D) instead
    of 1x1x1; the first `spatial` blocks have 3x3 kernels, the others see one position only (all if None). With
    `zero_init` a new block passes its shortcut on.
    """

    blocks: int
    width: int
    channels: int
    stride: int
    temporal: Collection[int] = ()
    spatial: int | None = None
    zero_init: bool = True


class Bottleneck(nn.Module):
    """ReLU(shortcut(x) + BN(1x1x1 ReLU(BN(1x3x3 ReLU(BN(tx1x1 x)))))), the stride in the 1x3x3."""

    def __init__(
        self,
        channels_in: int,
        width: int,
        channels: int,
        *,
        stride: int,
        temporal_kernel: int,
        spatial_kernel: int,
        zero_init: bool,
    ) -> None:
        super().__init__()
        space = (1, spatial_kernel, spatial_kernel)
        self.conv1, self.bn1 = _conv(channels_in, width, (temporal_kernel, 1, 1)), nn.BatchNorm3d(width)
        self.conv2, self.bn2 = _conv(width, width, space, (1, stride, stride)), nn.BatchNorm3d(width)
        self.conv3, self.bn3 = _conv(width, channels, (1, 1, 1)), nn.BatchNorm3d(channels)
        if zero_init:
            nn.init.zeros_(self.bn3.weight)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = _conv(channels_in, channels, (1, 1, 1), (1, stride, stride))
            self.downsample = nn.Sequential(projection, nn.BatchNorm3d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.downsample(x) + self.bn3(self.conv3(y)), inplace=True)


class ResNet3d(nn.Module):
    """Clip (B, 3, T, H, W) -> logits (B, num_classes): stem, residual stages, mean over T, H and W, dropout, linear.

    Every residual block has the name users place by, such as `res4.3`; a non-local block after it is `res4.3_nonlocal`
    beside it, so the keys of the residual blocks are the same with and without non-local blocks.

    Args:
        title: what a person calls the network, such as "C2D-R50".
        stem: the first convolution.
        stages: the stages by name, in order.
        places: the residual blocks (stage, index) that a non-local block follows.
        nonlocal_block: makes a non-local block for so many channels.
        pool2: whether a temporal max pool by 2 follows the first stage.
        num_classes: the number of logits.
        dropout: the probability before the last linear layer.
        hidden: put one hidden layer with ReLU, as wide as the features, on the pooled features.
        fc_std: the standard deviation that the last linear layer's weights start with.
    """

    def __init__(
        self,
        title: str,
        stem: Stem,
        stages: Mapping[str, Stage],
        places: Collection[tuple[str, int]],
        nonlocal_block: Callable[[int], nn.Module],
        *,
        pool2: bool,
        num_classes: int,
        dropout: float,
        hidden: bool,
        fc_std: float,
    ) -> None:
        super().__init__()
        self.title = title
        trunk: dict[str, nn.Module] = {"stem": _stem(stem)}
        if stem.pool is not None:
            trunk["pool1"] = stem.pool
        channels = stem.channels
        for name, stage in stages.items():
            trunk[name] = _stage(channels, stage, {i for s, i in places if s == name}, nonlocal_block)
            channels = stage.channels
            if pool2 and "pool2" not in trunk:
                trunk["pool2"] = nn.MaxPool3d((2, 1, 1))
        self.trunk_names = tuple(trunk)
        for name, module in trunk.items():
            self.add_module(name, module)
        self.hidden = nn.Sequential(nn.Linear(channels, channels), nn.ReLU()) if hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, std=fc_std)
        nn.init.zeros_(self.fc.bias)

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """The last feature map (B, C, T', H', W') of a clip (B, 3, T, H, W)."""
        if x_BCTHW.ndim != 5 or x_BCTHW.shape[1] != 3:
            raise ValueError(f"{self.title}: expected a clip (B, 3, T, H, W), got {tuple(x_BCTHW.shape)}")
        # Channels last all the way: faster convolutions, and attention finds its positions contiguous without a copy.
        x = x_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        for name in self.trunk_names:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        # a plain mean: adaptive 3-D pooling has no deterministic backward on CUDA
        pooled_BC = self.features(x_BCTHW).mean((2, 3, 4))
        return self.fc(self.dropout(self.hidden(pooled_BC)))


def _conv(
    channels_in: int, channels_out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
) -> nn.Conv3d:
    """A convolution without bias, from He's initialisation, whose padding keeps the size but for the stride."""
    time, height, width = kernel
    padding = (time // 2, height // 2, width // 2)
    conv = nn.Conv3d(channels_in, channels_out, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _stem(stem: Stem) -> nn.Sequential:
    layers = {"conv": _conv(3, stem.channels, stem.kernel, stem.stride), "bn": nn.BatchNorm3d(stem.channels)}
    return _sequential(layers | {"relu": nn.ReLU(inplace=True)})


def _stage(channels: int, stage: Stage, places: set[int], nonlocal_block: Callable[[int], nn.Module]) -> nn.Sequential:
    spatial = stage.blocks if stage.spatial is None else stage.spatial
    layers: dict[str, nn.Module] = {}
    for i in range(stage.blocks):
        layers[str(i)] = Bottleneck(
            channels if i == 0 else stage.channels,
            stage.width,
            stage.channels,
            stride=stage.stride if i == 0 else 1,
            temporal_kernel=3 if i in stage.temporal else 1,
            spatial_kernel=3 if i < spatial else 1,
            zero_init=stage.zero_init,
        )
        if i in places:
            layers[f"{i}_nonlocal"] = nonlocal_block(stage.channels)
    return _sequential(layers)


def _sequential(layers: Mapping[str, nn.Module]) -> nn.Sequential:
    sequential = nn.Sequential()
    for name, layer in layers.items():
        sequential.add_module(name, layer)
    return sequential
