"""Files under the names and shapes of programs that cannot be run here, against a float64 model with their choices."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import checkpoint_names as names
from helpers import py2_pickle
from helpers.video_weights import FIVE, GAINS, I3D, Layout, Name, Program, forward, random_weights, relative
from nlnet.checkpoints import convert

TOLERANCE = 1e-4
R101 = (3, 4, 23, 3)
I3D_NL = Layout(temporal=I3D, blocks=FIVE)
FOLDED = ("norm.weight", "norm.bias")

# pool1 as (kernel, stride, padding)
RELEASED_DENSE = Program(2, ((2, 3, 3), (2, 2, 2), (0, 0, 0)))
RELEASED_SPARSE = Program(1, ((1, 3, 3), (1, 2, 2), (0, 0, 0)))
SLOWFAST = Program(1, ((1, 3, 3), (1, 2, 2), (0, 1, 1)))
GLUONCV = Program(2, ((1, 3, 3), (2, 2, 2), (0, 1, 1)), subsample=False)


def caffe2_file(path: Path, weights: Mapping[str, Tensor]) -> None:
    blobs: dict[str, Any] = {key: value.numpy() for key, value in weights.items()}
    blobs |= {"conv1_w_momentum": weights["conv1_w"].numpy() * 0, "lr": 0.01, "model_iter": 400000}
    path.write_bytes(py2_pickle.dumps({"blobs": blobs}))


def image_file(path: Path, weights: Mapping[str, Tensor]) -> None:
    """A bare dictionary, as Python 3 pickles it in Python 2's protocol."""
    path.write_bytes(pickle.dumps({key: value.numpy() for key, value in weights.items()}, protocol=2))


def slowfast_file(path: Path, weights: Mapping[str, Tensor], instantiation: str = "softmax", arch: str = "i3d") -> None:
    counts = {key.replace("running_mean", "num_batches_tracked"): torch.tensor(7) for key in weights if "mean" in key}
    cfg = (
        f"NONLOCAL: {{INSTANTIATION: {instantiation}, LOCATION: [[[]], [[1, 3]], [[1, 3, 5]], [[]]],"
        " GROUP: [[1], [1], [1], [1]], POOL: [[[1, 2, 2], [1, 2, 2]], [[1, 2, 2], [1, 2, 2]]]}\n"
        f"MODEL: {{ARCH: {arch}}}\n"
    )
    content = {"epoch": 1, "model_state": dict(weights) | counts, "optimizer_state": {"lr": 0.1}, "cfg": cfg}
    torch.save(content, path)


def slowfast_dot_file(path: Path, weights: Mapping[str, Tensor]) -> None:
    slowfast_file(path, weights, "dot_product", "slow")


def gluoncv_file(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Several layers are saved under two names."""
    state = dict(weights)
    for key, value in weights.items():
        if ".nonlocal_block.W." in key:
            state[key.replace(".W.", ".W_bn.0.")] = value
        if ".nonlocal_block.bn." in key:
            state[key.replace(".bn.", ".W_bn.1.")] = value
        if key.startswith("fc."):
            state[key.replace("fc.", "head.1.")] = value
    torch.save(state, path)


@dataclass(frozen=True)
class Case:
    source: str
    file: str
    layout: Layout
    program: Program
    name: Name
    write: Callable[[Path, Mapping[str, Tensor]], None]
    clip: tuple[int, int, int]
    model: Mapping[str, Any] = field(default_factory=dict)
    """What the conversion must find out."""


CAFFE2 = Case(
    "caffe2",
    "i3d_nonlocal_32x2_IN_pretrain_400k.pkl",
    I3D_NL,
    RELEASED_DENSE,
    names.caffe2,
    caffe2_file,
    (16, 64, 48),
    {"name": "i3d_r50", "geometry": "dense", "pool1_padding": 0, "nonlocal_blocks": ["res3.1", "res3.3", "res4.1"]},
)
GLUONCV_CASE = Case(
    "gluoncv",
    "i3d_nl5_resnet50_v1_kinetics400.pth",
    I3D_NL,
    GLUONCV,
    names.gluoncv,
    gluoncv_file,
    (16, 48, 64),
    {"name": "i3d_r50", "geometry": "dense", "pool1_frames": 1, "subsample": False},
)
CASES = {
    "caffe2": CAFFE2,
    "caffe2 long clips": replace(
        CAFFE2,
        file="i3d_nonlocal_32x4_I3D_pretrain_400k.pkl",
        layout=replace(I3D_NL, norm_parts=FOLDED, block_norm=False),
        program=replace(RELEASED_SPARSE, group_frames={3: 4}),
        clip=(16, 48, 48),
        model={"geometry": "sparse", "norm": "frozen", "nonlocal_groups": {"res3": 4}},
    ),
    "slowfast": Case(
        "slowfast",
        "I3D_NLN_8x8_R50.pyth",
        I3D_NL,
        SLOWFAST,
        names.slowfast,
        slowfast_file,
        (4, 64, 48),
        {"name": "i3d_r50", "geometry": "sparse", "pool1_padding": 1, "pairwise": "embedded_gaussian"},
    ),
}
FULL_CASES = {
    "caffe2 images": Case(
        "caffe2",
        "r50_pretrain_c2_model_iter450450_clean.pkl",
        Layout(stem_frames=1, classes=1000, image=True),
        SLOWFAST,
        names.caffe2,
        image_file,
        (2, 64, 64),
        {"name": "c2d_r50", "num_classes": 1000},
    ),
    "gluoncv": GLUONCV_CASE,
    "caffe2 sparse": replace(
        CAFFE2,
        file="c2d_nonlocal_8x8_IN_pretrain_400k.pkl",
        layout=Layout(stem_frames=1, blocks=FIVE),
        program=RELEASED_SPARSE,
        model={"name": "c2d_r50", "geometry": "sparse"},
    ),
    "caffe2 r101": replace(
        CAFFE2,
        layout=replace(I3D_NL, depths=R101, blocks={3: {1, 3}, 4: {6, 13, 20}}),
        model={"name": "i3d_r101", "nonlocal_blocks": ["res3.1", "res3.3", "res4.6", "res4.13", "res4.20"]},
    ),
    "slowfast slow, dot product": replace(
        CASES["slowfast"],
        layout=Layout(
            stem_frames=1,
            temporal={4: set(range(6)), 5: {0, 1, 2}},
            blocks=FIVE,
            gains=GAINS | {"theta": 0.05, "phi": 0.05},  # of third degree without a softmax
        ),
        program=replace(SLOWFAST, pool2=False, softmax=False),
        write=slowfast_dot_file,
        model={"name": "slow_r50", "pairwise": "dot_product"},
    ),
    "gluoncv r101, 10 blocks": replace(
        GLUONCV_CASE,
        layout=replace(I3D_NL, depths=R101, blocks={3: {0, 1, 2, 3}, 4: {2, 6, 10, 14, 18, 22}}),
        model={"name": "i3d_r101"},
    ),
}


def check(case: Case, folder: Path) -> None:
    weights = random_weights(case.layout, case.name)
    case.write(folder / case.file, weights)
    converted = convert(folder / case.file, case.source)
    found = dict(converted.model)
    if "nonlocal_blocks" in case.model:
        found["nonlocal_blocks"] = found["nonlocal_blocks"][: len(case.model["nonlocal_blocks"])]
    assert found | dict(case.model) == found
    assert not converted.report.left_over
    assert not converted.report.missing
    x = torch.randn(1, 3, *case.clip, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = converted.build()(x)
        wanted = forward(case.layout, case.program, weights, case.name, x)
    assert relative(got, wanted) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_logits(case: str, tmp_path: Path) -> None:
    check(CASES[case], tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", FULL_CASES)
def test_logits_of_the_other_networks(case: str, tmp_path: Path) -> None:
    check(FULL_CASES[case], tmp_path)
