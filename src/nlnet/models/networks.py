"""The networks by name: their stages, their pools, and where a number of non-local blocks goes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from nlnet.errors import UserError
from nlnet.models.placement import Position, presets
from nlnet.models.resnet3d import Stage, Stem


@dataclass(frozen=True)
class Pools:
    """How a network shortens and shrinks a clip before its residual blocks; None is the network's own choice."""

    geometry: str | None = None
    pool1_padding: int = 1
    pool1_frames: int | None = None
    pool2_frames: int | None = None


@dataclass(frozen=True)
class Network:
    """`stages` are given with 3x1x1 kernels; `placements` has the positions behind a number or a stage's name."""

    title: str
    stages: Mapping[str, Stage]
    stem: Callable[[Pools], Stem]
    pool2: Callable[[Pools], nn.MaxPool3d | None] = field(default=lambda pools: None)
    placements: Mapping[int | str, Sequence[Position]] = field(default_factory=dict)
    fc_std: float = 0.01


def _resnet(
    title: str, family: str, depths: tuple[int, int, int, int], temporal: tuple[Sequence[int], ...] | None = None
) -> Network:
    """Table 1 of the paper with a first convolution over five frames (i3d) or one; `temporal` blocks by stage."""
    stages = {
        f"res{k + 2}": Stage(
            blocks=depth,
            width=64 * 2**k,
            channels=256 * 2**k,
            stride=1 if k == 0 else 2,
            temporal=temporal[k] if temporal else (),
        )
        for k, depth in enumerate(depths)
    }
    kernel = (5 if family == "i3d" else 1, 7, 7)

    def geometry_of(pools: Pools) -> str:
        if family == "slow" and pools.geometry not in (None, "sparse"):
            raise UserError(f"geometry={pools.geometry}: {title} keeps all frames to its end; use geometry=sparse")
        return pools.geometry or ("sparse" if family == "slow" else "dense")

    def stem(pools: Pools) -> Stem:
        geometry, p = geometry_of(pools), pools.pool1_padding
        if geometry == "sparse":
            if pools.pool1_frames not in (None, 1):
                raise UserError(f"pool1_frames={pools.pool1_frames}: a sparse geometry keeps all frames; use 1 or null")
            return Stem(64, kernel, (1, 2, 2), nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, p, p)))
        # two frames as released, or three as in table 1: both halve the clip
        frames = pools.pool1_frames or (3 if geometry == "paper" else 2 + p)
        padding = ((frames - 1) // 2, p, p)
        return Stem(64, kernel, (2, 2, 2), nn.MaxPool3d((frames, 3, 3), stride=2, padding=padding))

    def pool2(pools: Pools) -> nn.MaxPool3d | None:
        own = 1 if family == "slow" else 3 if geometry_of(pools) == "paper" else 2
        frames = pools.pool2_frames or own
        padding = ((frames - 1) // 2, 0, 0)
        return None if frames == 1 else nn.MaxPool3d((frames, 1, 1), stride=(2, 1, 1), padding=padding)

    return Network(title, stages, stem, pool2, presets({name: stage.blocks for name, stage in stages.items()}))


def _i3d(title: str, depths: tuple[int, int, int, int]) -> Network:
    """Section 4 of the paper, as released: every block of res2, every second one of res3 and res4, and res5.1."""
    temporal = (range(depths[0]), range(0, depths[1], 2), range(0, depths[2], 2), (1,))
    return _resnet(title, "i3d", depths, temporal)


def _slow(title: str, depths: tuple[int, int, int, int]) -> Network:
    """The Slow pathway alone (SlowFast, Feichtenhofer et al. 2019, table 1): 3x1x1 in all blocks of res4 and res5."""
    return _resnet(title, "slow", depths, ((), (), range(depths[2]), range(depths[3])))


def _demo(title: str, *, inflated: bool) -> Network:
    """Width 16, on maps of 16x16 in res2 and 8x8 in res3, where only the first block looks at its neighbors."""
    stages = {
        "res2": Stage(blocks=1, width=16, channels=32, stride=1, temporal=range(inflated), zero_init=False),
        "res3": Stage(
            blocks=3, width=32, channels=64, stride=2, temporal=range(0, 3 * inflated, 2), spatial=1, zero_init=False
        ),
    }
    one, two = [("res3", 0)], [("res3", 0), ("res3", 1)]
    # Two positions. What was written for a larger network takes one or both: all stages but res2 are this res3.
    placements: dict[int | str, Sequence[Position]] = {
        0: (),
        1: one,
        2: two,
        5: two,
        10: two,
        "res2": [("res2", 0)],
        "res3": one,
        "res4": one,
        "res5": one,
    }

    def stem(pools: Pools) -> Stem:
        return Stem(16, (3 if inflated else 1, 3, 3), (1, 2, 2))

    # A glyph fills a few positions of the mean over all: from 0.01 its gradient stays too small for hundreds of steps.
    return Network(title, stages, stem, placements=placements, fc_std=0.1)


_R50, _R101 = (3, 4, 6, 3), (3, 4, 23, 3)

NETWORKS: Mapping[str, Network] = {
    "c2d_r50": _resnet("C2D-R50", "c2d", _R50),
    "i3d_r50": _i3d("I3D-R50", _R50),
    "slow_r50": _slow("Slow-R50", _R50),
    "c2d_r101": _resnet("C2D-R101", "c2d", _R101),
    "i3d_r101": _i3d("I3D-R101", _R101),
    "slow_r101": _slow("Slow-R101", _R101),
    "c2d_demo": _demo("C2D-demo", inflated=False),
    "i3d_demo": _demo("I3D-demo", inflated=True),
}
