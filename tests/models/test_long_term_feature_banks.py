"""The networks of `charades_nl_lfb` and `charades_nl_lfb_r101` against the code of Long-Term Feature Banks.

The numbers are derived here by hand from what that code builds (lib/models/resnet_video.py, resnet_helper.py and
nonlocal_helper.py, configs/charades_r50_baseline.yaml and charades_r101_baseline.yaml), convolution by convolution.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import nn

from nlnet import build_model
from nlnet.config.compose import compose
from nlnet.models import ResNet3d, describe

CLASSES = 157


class Arc(NamedTuple):
    """By stage: the number of blocks, those with a 3x1x1 kernel, those that a non-local block follows."""

    depths: Sequence[int]
    temporal: Sequence[Sequence[int]]
    followed: Sequence[Sequence[int]]
    dilation_of_res5: int


R50 = Arc((3, 4, 6, 3), ((0, 1, 2), (0, 2), (0, 2, 4), (1,)), ((), (1, 3), (1, 3, 5), ()), 2)
R101 = Arc((3, 4, 23, 3), ((0, 1, 2), (0, 2), range(0, 23, 2), (1,)), ((), (1, 3), (6, 13, 20), ()), 1)
GROUP_FRAMES = 4  # that attend among themselves in res3


@functools.cache
def network(experiment: str) -> ResNet3d:
    options = dict(compose([f"experiment={experiment}"]).model)
    del options["_target_"]
    with torch.device("meta"):
        return build_model(**options, num_classes=CLASSES)


def bottlenecks(arc: Arc, side: int) -> Iterator[tuple[int, int]]:
    """(parameters, multiply-adds) of each residual block on a map of 14 x 14, 28 x 28 or 56 x 56 positions."""
    frames, channels = 32, 64
    for stage, depth in enumerate(arc.depths):
        width, outside = 64 * 2**stage, 256 * 2**stage
        for block in range(depth):
            shrinks = stage in (1, 2) and block == 0  # res3 and res4; res5 has stride 1
            before, side = side * side, side // 2 if shrinks else side
            after, kernel = side * side, 3 if block in arc.temporal[stage] else 1
            convs = [(kernel * channels * width, before), (9 * width * width, after), (width * outside, after)]
            norms = [width, width, outside]
            if block == 0:
                convs.append((channels * outside, after))
                norms.append(outside)
            weights = sum(weight for weight, _ in convs)
            yield weights + 2 * sum(norms), frames * sum(weight * positions for weight, positions in convs)
            channels = outside
        if stage == 0:
            frames //= 2  # pool2


def nonlocal_block(channels: int, frames: int, side: int, groups: int) -> tuple[int, int]:
    """(parameters, multiply-adds) of a block whose keys are pooled by 2 x 2; its scale and shift are constants."""
    inside, queries = channels // 2, frames * side * side
    keys = frames * (side // 2) ** 2
    convs = channels * inside * (queries + keys + keys + queries)  # theta, phi, g, out
    attention = 2 * queries * (keys // groups) * inside
    return 4 * channels * inside + 3 * inside + channels, convs + attention


def by_hand(arc: Arc, side: int) -> tuple[int, int]:
    """Parameters and multiply-adds for one clip of 32 frames of `side` pixels; the classifier sees one mean."""
    parts = [(5 * 7 * 7 * 3 * 64 + 2 * 64, 5 * 7 * 7 * 3 * 64 * 32 * (side // 2) ** 2)]  # conv1 keeps all frames
    parts += bottlenecks(arc, side // 4)  # pool1 pads: a quarter, 56 of 224
    parts += [nonlocal_block(512, 16, side // 8, 16 // GROUP_FRAMES)] * 2
    parts += [nonlocal_block(1024, 16, side // 16, 1)] * 3
    parts += [(2048 * CLASSES + CLASSES, 2048 * CLASSES)]
    return sum(p for p, _ in parts), sum(m for _, m in parts)


CASES = pytest.mark.parametrize(("experiment", "arc"), [("charades_nl_lfb", R50), ("charades_nl_lfb_r101", R101)])
SIZES = {"charades_nl_lfb": (34_895_837, 190.65), "charades_nl_lfb_r101": (58_606_557, 264.84)}


@CASES
def test_parameters_and_multiply_adds(experiment: str, arc: Arc) -> None:
    summary = describe(network(experiment), (3, 32, 224, 224))
    assert (summary.parameters, round(summary.gmacs * 1e9)) == by_hand(arc, 224)
    assert (summary.parameters, round(summary.gmacs, 2)) == SIZES[experiment]


@CASES
@pytest.mark.parametrize("side", [224, 256])  # of training and of the test
def test_the_output_of_every_stage(experiment: str, side: int, arc: Arc) -> None:
    sizes, x = {}, torch.empty(1, 3, 32, side, side, device="meta")
    for name in network(experiment).trunk_names:
        x = network(experiment).get_submodule(name)(x)
        sizes[name] = tuple(x.shape[1:])
    quarter, eighth, sixteenth = side // 4, side // 8, side // 16
    assert sizes == {
        "stem": (64, 32, side // 2, side // 2),
        "pool1": (64, 32, quarter, quarter),
        "res2": (256, 32, quarter, quarter),
        "pool2": (256, 16, quarter, quarter),
        "res3": (512, 16, eighth, eighth),
        "res4": (1024, 16, sixteenth, sixteenth),
        "res5": (2048, 16, sixteenth, sixteenth),  # their pool after it spans 16 x (side // 16) x (side // 16)
    }


@CASES
def test_kernels_and_places(experiment: str, arc: Arc) -> None:
    model = network(experiment)
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv3d) and m.kernel_size[1] == 3}
    for name, conv in convs.items():
        dilation = arc.dilation_of_res5 if name.startswith("res5.") else 1
        assert (conv.dilation, conv.padding) == ((1, dilation, dilation), (0, dilation, dilation)), name
    blocks = {name: m for name, m in model.named_modules() if name.endswith("_nonlocal")}
    places = [f"res{stage + 2}.{block}_nonlocal" for stage, after in enumerate(arc.followed) for block in after]
    assert list(blocks) == places
    assert [block.temporal_group for block in blocks.values()] == [GROUP_FRAMES] * 2 + [None] * 3
