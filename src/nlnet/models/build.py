"""The networks by name."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from torch import nn

from nlnet.errors import UserError
from nlnet.layers import NonLocalBlock
from nlnet.models.frozen import FrozenBatchNorm3d
from nlnet.models.networks import NETWORKS, Pools
from nlnet.models.options import block_options, check_one_of, naming_nonlocal_options
from nlnet.models.placement import NonlocalBlocks, resolve_placement
from nlnet.models.resnet3d import ResNet3d, Stage
from nlnet.ops import PAIRWISE

GEOMETRIES = ("paper", "dense", "sparse")
_NAMED_APART = {"channels", "dims", "pairwise", "subsample", "scale", "temporal_group"}


def build_model(
    name: str,
    *,
    nonlocal_blocks: NonlocalBlocks = 0,
    num_classes: int = 400,
    pairwise: str = "embedded_gaussian",
    subsample: bool = True,
    scale: bool | None = None,
    nonlocal_groups: Mapping[str, int] | None = None,
    nonlocal_options: Mapping[str, Any] | None = None,
    geometry: Literal["paper", "dense", "sparse"] | None = None,
    pool1_padding: Literal[0, 1] = 1,
    pool1_frames: Literal[1, 2, 3] | None = None,
    pool2_frames: Literal[1, 2, 3] | None = None,
    spatial_strides: Mapping[str, int] | None = None,
    dilations: Mapping[str, int] | None = None,
    inflation: Literal["3x1x1", "3x3x3"] = "3x1x1",
    norm: Literal["batch", "frozen"] = "batch",
    dropout: float = 0.5,
    head: Literal["linear", "mlp"] = "linear",
) -> ResNet3d:
    """The network `name`: clip (B, 3, T, H, W) -> logits (B, num_classes).

    c2d_r50, c2d_r101 are 2-D ResNets with temporal pooling; i3d_r50, i3d_r101 have a 5x7x7 first convolution and 3x1x1
    kernels in every second residual block (table 1 and section 4 of the paper). slow_r50, slow_r101 keep all frames
    to the end and have 3x1x1 kernels in all blocks of res4 and res5. c2d_demo and i3d_demo learn from
    scratch on clips of 8x32x32 in minutes; a position of c2d_demo sees 11x11 pixels of one frame, and pixels meet only
    in the final mean or in a non-local block.

    Args:
        name: a name above.
        nonlocal_blocks: 0, 1, 5 or 10 as in the paper (section 4 and table 2); a stage, "res2" to "res5", for one
            block right before its last residual block (table 2b); or a list of the residual blocks that a non-local
            block follows, counted from 0, such as ["res3.1", "res4.3"]. 1 is "res4"; 5 every other block of res3 and
            res4, 10 every block. The demo networks have two positions: 1 or 2, and 5 or 10 take both.
        num_classes: the number of logits.
        pairwise: the blocks' pairwise function, a name in `nlnet.ops.PAIRWISE`.
        subsample: max-pool the blocks' keys by 2 along H and W.
        scale: scale the softmax by 1/sqrt(D); None: as the blocks' preset has it ("official" does).
        nonlocal_groups: how many frames attend among themselves, by stage: {"res3": 4} in the released networks for
            128x1 and 32x4 clips. In the other stages all frames do.
        nonlocal_options: further arguments of `NonLocalBlock`; those that are None are its own choice. In a network
            with frozen norms new blocks have none, as released.
        geometry: "paper" (table 1): conv1 and pool1 halve the frames, the pools span three frames. "dense" (released
            for 32x2 and 128x1): they span two. "sparse" (released for 8x8 and 32x4; also of pytorchvideo and
            SlowFast): conv1 and pool1 keep all frames. None: "sparse" for Slow, which has no other, "dense" for the
            rest. The demo networks always keep all frames.
        pool1_padding: 1 for the paper's 56x56 after pool1 at 224x224 input; 0 for the released networks' 55x55.
        pool1_frames: the frames that pool1 spans where it halves them, if not what `geometry` says (with
            pool1_padding=1 "dense" takes three). 1 takes every other frame, as mmaction2 does.
        pool2_frames: the frames that the pool after res2 spans; 1 leaves it out. Slow has none.
        spatial_strides: the stride along H and W of a stage, by its name, where it is not the paper's: {"res5": 1}
            keeps the map of res4, as networks that look at regions do.
        dilations: the dilation of a stage's 3x3 kernels along H and W, by its name, where it is not 1: {"res5": 2}.
        inflation: the kernels over three frames that i3d and slow have: "3x1x1" in the residual blocks' first
            convolution, or "3x3x3" in their second (table 2e).
        norm: "batch", or "frozen" for batch norm with constant statistics, scales and shifts (128-frame clips and
            Charades in the paper), which needs trained weights to start from.
        dropout: the probability before the last linear layer.
        head: "linear", or "mlp" for one hidden layer on the pooled features.

    Raises UserError for a name or a value that is not one of these.
    """
    check_one_of("model name", name, NETWORKS)
    check_one_of("pairwise", pairwise, PAIRWISE)
    check_one_of("geometry", geometry, (*GEOMETRIES, None))
    check_one_of("pool1_padding", pool1_padding, (0, 1))
    check_one_of("pool1_frames", pool1_frames, (1, 2, 3, None))
    check_one_of("pool2_frames", pool2_frames, (1, 2, 3, None))
    check_one_of("inflation", inflation, ("3x1x1", "3x3x3"))
    check_one_of("norm", norm, ("batch", "frozen"))
    check_one_of("head", head, ("linear", "mlp"))
    if not 0 <= dropout < 1:
        raise UserError(f"dropout={dropout}: give a probability, at least 0 and below 1.")
    if num_classes < 1:
        raise UserError(f"num_classes={num_classes}: a network needs at least one class.")
    network, frozen = NETWORKS[name], norm == "frozen"
    counts = {name: stage.blocks for name, stage in network.stages.items()}
    positions = resolve_placement(nonlocal_blocks, counts, network.placements)
    pools = Pools(geometry, pool1_padding, pool1_frames, pool2_frames)
    stages = _changed(network.stages, spatial_strides, dilations)
    groups = _by_stage("nonlocal_groups", nonlocal_groups, stages)
    cubic = inflation == "3x3x3"
    options: dict[str, Any] = {"norm": "none"} if frozen else {}
    options |= block_options(nonlocal_options, _NAMED_APART) | ({} if scale is None else {"scale": scale})
    return ResNet3d(
        network.title + _traits(cubic and any(stage.temporal for stage in stages.values()), frozen),
        network.stem(pools),
        {key: _adapted(stage, cubic, frozen) for key, stage in stages.items()},
        positions,
        partial(_block, groups, pairwise=pairwise, subsample=subsample, **options),
        pool2=network.pool2(pools),
        norm=FrozenBatchNorm3d if frozen else nn.BatchNorm3d,
        num_classes=num_classes,
        dropout=dropout,
        hidden=head == "mlp",
        fc_std=network.fc_std,
    )


def _traits(cubic: bool, frozen: bool) -> str:
    traits = [text for text, true in (("3x3x3 kernels", cubic), ("frozen norms", frozen)) if true]
    return f" ({', '.join(traits)})" if traits else ""


def _adapted(stage: Stage, cubic: bool, frozen: bool) -> Stage:
    # A frozen scale of zero would shut its residual branch for good.
    return replace(stage, cubic=cubic, zero_init=stage.zero_init and not frozen)


def _block(groups: Mapping[str, int], stage: str, channels: int, **options: Any) -> nn.Module:
    if stage in groups:
        options["temporal_group"] = groups[stage]
    with naming_nonlocal_options():
        return NonLocalBlock(channels, dims=3, **options)


def _changed(
    stages: Mapping[str, Stage], strides: Mapping[str, int] | None, dilations: Mapping[str, int] | None
) -> dict[str, Stage]:
    strides = _by_stage("spatial_strides", strides, stages)
    dilations = _by_stage("dilations", dilations, stages)
    return {
        name: replace(stage, stride=strides.get(name, stage.stride), dilation=dilations.get(name, stage.dilation))
        for name, stage in stages.items()
    }


def _by_stage(option: str, values: Mapping[str, int] | None, stages: Mapping[str, Stage]) -> Mapping[str, int]:
    if values is not None and not isinstance(values, Mapping):
        raise UserError(f"{option}={values!r}: give whole numbers by stage, such as {{res3: 4}}.")
    for stage, value in (values or {}).items():
        check_one_of(f"{option}: stage", stage, stages)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{option}: {stage}={value!r}: give a whole number, at least 1.")
    return values or {}
