"""C2D, I3D and Slow residual networks (table 1 and section 4 of the paper).

Shapes: B clips, C channels, T frames, H rows, W columns.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet.models.placement import Position
from nlnet.ops.precision import upcast


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

    `stride` is the first block's, along H and W; `dilation` that of all 3x3 kernels, along H and W. `temporal` are the
    blocks that look at three frames: in their first convolution (3x1x1 instead of 1x1x1), or with `cubic` in their
    second one (3x3x3 instead of 1x3x3). The first `spatial` blocks have 3x3 kernels, the others see one position only
    (all if None). With `zero_init` a new block passes its shortcut on.
    """

    blocks: int
    width: int
    channels: int
    stride: int
    temporal: Collection[int] = ()
    cubic: bool = False
    spatial: int | None = None
    zero_init: bool = True
    dilation: int = 1


class Bottleneck(nn.Module):
    """ReLU(shortcut(x) + N(1x1x1 ReLU(N(ux3x3 ReLU(N(tx1x1 x)))))), the stride in the ux3x3, N the norm.

    `temporal_kernels` is (t, u).
    """

    def __init__(
        self,
        channels_in: int,
        width: int,
        channels: int,
        *,
        stride: int,
        temporal_kernels: tuple[int, int],
        spatial_kernel: int,
        norm: Callable[[int], nn.Module],
        zero_init: bool,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        t, u = temporal_kernels
        self.conv1, self.bn1 = _conv(channels_in, width, (t, 1, 1)), norm(width)
        self.conv2 = _conv(width, width, (u, spatial_kernel, spatial_kernel), (1, stride, stride), dilation)
        self.bn2 = norm(width)
        self.conv3, self.bn3 = _conv(width, channels, (1, 1, 1)), norm(channels)
        if zero_init:
            nn.init.zeros_(self.bn3.get_parameter("weight"))
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = _conv(channels_in, channels, (1, 1, 1), (1, stride, stride))
            self.downsample = nn.Sequential(projection, norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.downsample(x) + self.bn3(self.conv3(y)), inplace=True)


class ResNet3d(nn.Module):
    """Clip (B, 3, T, H, W) -> logits (B, num_classes): stem, residual stages, mean over T, H and W, dropout, linear.

    Every residual block has the name that users give, such as `res4.3`; a non-local block after it is `res4.3_nonlocal`
    beside it, so the keys of the residual blocks are the same with and without non-local blocks.

    Args:
        title: what a person calls the network, such as "C2D-R50".
        stem: the first convolution.
        stages: the stages by name, in order.
        positions: the residual blocks that a non-local block follows.
        nonlocal_block: makes a non-local block for a stage and so many channels.
        pool2: the temporal pool after the first stage, None where there is none.
        norm: makes a norm for so many channels.
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
        positions: Collection[Position],
        nonlocal_block: Callable[[str, int], nn.Module],
        *,
        pool2: nn.MaxPool3d | None,
        norm: Callable[[int], nn.Module],
        num_classes: int,
        dropout: float,
        hidden: bool,
        fc_std: float,
    ) -> None:
        super().__init__()
        self.title = title
        trunk: dict[str, nn.Module] = {"stem": _stem(stem, norm)}
        if stem.pool is not None:
            trunk["pool1"] = stem.pool
        channels = stem.channels
        for name, stage in stages.items():
            after = {i for s, i in positions if s == name}
            trunk[name] = _stage(channels, stage, after, partial(nonlocal_block, name), norm)
            channels = stage.channels
            if pool2 is not None and "pool2" not in trunk:
                trunk["pool2"] = pool2
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
        return self._logits(pooled_BC)

    def dense(self, x_BCTHW: Tensor, window: tuple[int, int]) -> Tensor:
        """Logits (B, P, num_classes) of a clip of any height and width, the classifier applied to P windows.

        A window is `window` = (rows, columns) of the last feature map, averaged over all of T' too, as
        `forward` averages the whole map; the windows are one position apart, P = (H' - rows + 1) (W' - columns + 1).
        With the window that the training crop fills (7 x 7 for 224 pixels) this is the fully-convolutional test
        (section 4.1). Raises ValueError where the map is smaller than the window.
        """
        features_BCTHW = self.features(x_BCTHW)
        frames, *sides = features_BCTHW.shape[2:]
        if sides[0] < window[0] or sides[1] < window[1]:
            raise ValueError(f"{self.title}: a window of {window} does not fit into a feature map of {tuple(sides)}")
        pooled_BC1HW = F.avg_pool3d(upcast(features_BCTHW), (frames, *window), stride=1)  # bfloat16 has none on a CPU
        return self._logits(pooled_BC1HW.flatten(2).transpose(1, 2))

    def _logits(self, pooled: Tensor) -> Tensor:
        return self.fc(self.dropout(self.hidden(pooled)))


def _conv(
    channels_in: int,
    channels_out: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    dilation: int = 1,
) -> nn.Conv3d:
    """A convolution without bias, from He's initialization, whose padding keeps the size but for the stride.

    `dilation` is that of H and W.
    """
    time, height, width = kernel
    padding = (time // 2, height // 2 * dilation, width // 2 * dilation)
    spread = (1, dilation, dilation)
    conv = nn.Conv3d(channels_in, channels_out, kernel, stride, padding, dilation=spread, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _stem(stem: Stem, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    layers = {"conv": _conv(3, stem.channels, stem.kernel, stem.stride), "bn": norm(stem.channels)}
    return _sequential(layers | {"relu": nn.ReLU(inplace=True)})


def _stage(
    channels: int,
    stage: Stage,
    followed: set[int],
    nonlocal_block: Callable[[int], nn.Module],
    norm: Callable[[int], nn.Module],
) -> nn.Sequential:
    spatial = stage.blocks if stage.spatial is None else stage.spatial
    layers: dict[str, nn.Module] = {}
    for i in range(stage.blocks):
        frames = 3 if i in stage.temporal else 1
        layers[str(i)] = Bottleneck(
            channels if i == 0 else stage.channels,
            stage.width,
            stage.channels,
            stride=stage.stride if i == 0 else 1,
            temporal_kernels=(1, frames) if stage.cubic else (frames, 1),
            spatial_kernel=3 if i < spatial else 1,
            norm=norm,
            zero_init=stage.zero_init,
            dilation=stage.dilation,
        )
        if i in followed:
            layers[f"{i}_nonlocal"] = nonlocal_block(stage.channels)
    return _sequential(layers)


def _sequential(layers: Mapping[str, nn.Module]) -> nn.Sequential:
    sequential = nn.Sequential()
    for name, layer in layers.items():
        sequential.add_module(name, layer)
    return sequential
