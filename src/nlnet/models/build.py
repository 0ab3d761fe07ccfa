"""The networks by name."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from nlnet.errors import UserError, nearest
from nlnet.layers import NonLocalBlock
from nlnet.models.placement import PRESETS, NonlocalBlocks, place
from nlnet.models.resnet3d import ResNet3d, Stage, Stem
from nlnet.ops import PAIRWISE


@dataclass(frozen=True)
class _Network:
    title: str
    placement: str
    stem: Callable[[str, int], Stem]
    stages: Mapping[str, Stage]
    pool2: bool
    fc_std: float = 0.01


def build_model(
    name: str,
    *,
    nonlocal_blocks: NonlocalBlocks = 0,
    num_classes: int = 400,
    pairwise: str = "embedded_gaussian",
    subsample: bool = True,
    scale: bool = True,
    geometry: Literal["dense", "sparse"] = "dense",
    pool1_padding: Literal[0, 1] = 1,
    dropout: float = 0.5,
    head: Literal["linear", "mlp"] = "linear",
) -> ResNet3d:
    """The network `name`: clip (B, 3, T, H, W) -> logits (B, num_classes).

    c2d_r50, c2d_r101 are 2-D ResNets with temporal pooling; i3d_r50, i3d_r101 have a 5x7x7 first convolution and 3x1x1
    kernels in every second residual block (table 1 and section 4 of the paper). c2d_demo and i3d_demo learn from
    scratch on clips of 8x32x32 in minutes; a position of c2d_demo sees 11x11 pixels of one frame, and pixels meet only
    in the final mean or in a non-local block.

    Args:
        name: a name above.
        nonlocal_blocks: 0, 1, 5 or 10 as in the paper (section 4 and table 2), or a list of the residual blocks that
            a non-local block follows, counted from 0, such as ["res3.1", "res4.3"]. 1 is right before the last block
            of res4; 5 every other block of res3 and res4, 10 every block. The demo networks have two places: 1 or 2,
            and 5 or 10 take both.
        num_classes: the number of logits.
        pairwise: the blocks' pairwise function, a name in `nlnet.ops.PAIRWISE`.
        subsample: max-pool the blocks' keys by 2 along H and W.
        scale: scale the softmax by 1/sqrt(D), as released.
        geometry: "dense" (32x2 and 128x1 inputs, table 1): conv1 and pool1 halve the frames. "sparse" (8x8 and 32x4):
            they keep them. The demo networks always keep all frames.
        pool1_padding: 1 for the paper's 56x56 after pool1 at 224x224 input; 0 for the released networks' 55x55,
            whose dense pool1 also spans 2 frames instead of 3. The demo networks have no pool1.
        dropout: the probability before the last linear layer.
        head: "linear", or "mlp" for one hidden layer on the pooled features.

    Raises UserError for a name or a value that is not one of these.
    """
    _one_of("model name", name, NETWORKS)
    _one_of("pairwise", pairwise, PAIRWISE)
    _one_of("geometry", geometry, ("dense", "sparse"))
    _one_of("pool1_padding", pool1_padding, (0, 1))
    _one_of("head", head, ("linear", "mlp"))
    if not 0 <= dropout < 1:
        raise UserError(f"dropout={dropout}: give a probability, at least 0 and below 1.")
    if num_classes < 1:
        raise UserError(f"num_classes={num_classes}: a network needs at least one class.")
    network = NETWORKS[name]
    places = place(
        nonlocal_blocks, {s: stage.blocks for s, stage in network.stages.items()}, PRESETS[network.placement]
    )

    def nonlocal_block(channels: int) -> nn.Module:
        return NonLocalBlock(channels, dims=3, pairwise=pairwise, subsample=subsample, scale=scale)

    return ResNet3d(
        network.title,
        network.stem(geometry, pool1_padding),
        network.stages,
        places,
        nonlocal_block,
        pool2=network.pool2,
        num_classes=num_classes,
        dropout=dropout,
        hidden=head == "mlp",
        fc_std=network.fc_std,
    )


def _resnet(title: str, placement: str, depths: tuple[int, int, int, int], *, inflated: bool) -> _Network:
    """Table 1 of the paper; inflated, its I3D: 3x1x1 in res2, in every second block of res3 and res4, and in res5.1."""
    every_second = (range(depths[0]), range(0, depths[1], 2), range(0, depths[2], 2), (1,))
    stages = {
        f"res{k + 2}": Stage(
            blocks=depth,
            width=64 * 2**k,
            channels=256 * 2**k,
            stride=1 if k == 0 else 2,
            temporal=every_second[k] if inflated else (),
        )
        for k, depth in enumerate(depths)
    }

    def stem(geometry: str, pool1_padding: int) -> Stem:
        kernel = (5 if inflated else 1, 7, 7)
        p = pool1_padding
        if geometry == "dense":
            # two frames without padding, as released, or three with it, as in the paper: both halve them
            return Stem(64, kernel, (2, 2, 2), nn.MaxPool3d((2 + p, 3, 3), stride=2, padding=p))
        return Stem(64, kernel, (1, 2, 2), nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, p, p)))

    return _Network(title, placement, stem, stages, pool2=True)


def _demo(title: str, *, inflated: bool) -> _Network:
    """Width 16, on maps of 16x16 in res2 and 8x8 in res3, where only the first block looks at its neighbours."""
    stages = {
        "res2": Stage(blocks=1, width=16, channels=32, stride=1, temporal=range(inflated), zero_init=False),
        "res3": Stage(
            blocks=3, width=32, channels=64, stride=2, temporal=range(0, 3 * inflated, 2), spatial=1, zero_init=False
        ),
    }

    def stem(geometry: str, pool1_padding: int) -> Stem:
        return Stem(16, (3 if inflated else 1, 3, 3), (1, 2, 2))

    # A glyph fills a few positions of the mean over all: from 0.01 its gradient stays too small for hundreds of steps.
    return _Network(title, "demo", stem, stages, pool2=False, fc_std=0.1)


def _one_of(what: str, value: object, known: Collection[object]) -> None:
    if value not in known:
        names = [str(k) for k in known]
        raise UserError(f"{what} {value!r} is unknown; {nearest(str(value), names)}.")


NETWORKS: Mapping[str, _Network] = {
    "c2d_r50": _resnet("C2D-R50", "r50", (3, 4, 6, 3), inflated=False),
    "i3d_r50": _resnet("I3D-R50", "r50", (3, 4, 6, 3), inflated=True),
    "c2d_r101": _resnet("C2D-R101", "r101", (3, 4, 23, 3), inflated=False),
    "i3d_r101": _resnet("I3D-R101", "r101", (3, 4, 23, 3), inflated=True),
    "c2d_demo": _demo("C2D-demo", inflated=False),
    "i3d_demo": _demo("I3D-demo", inflated=True),
}
