"""SlowFast's settings: those that its ResNet reads are converted, without effect, or refused by name.

Its code does not run here. What it reads is listed by hand from `video_model_builder.py` (ResNet), `stem_helper.py`,
`resnet_helper.py`, `nonlocal_helper.py`, `head_helper.py`, `batchnorm_helper.py` and `weight_init_helper.py`; what it
computes is written out in `helpers.video_weights`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers import checkpoint_names as names
from helpers import py2_pickle
from helpers.video_weights import FIVE, I3D, Layout, Program, constant_weights, forward, random_weights, relative
from nlnet.checkpoints import convert
from nlnet.checkpoints.sources.slowfast import SECTIONS, SHARED
from nlnet.errors import UserError

CONVERTED, WEIGHTS, NOTHING, ONLY = "converted", "in the weights", "without effect", "only"

READ: Mapping[str, tuple[str, Any]] = {
    # the names and shapes in the file; other ones than a network's of ours do not fit it, and are refused
    "MODEL.NUM_CLASSES": (WEIGHTS, "the rows of head.projection"),
    "RESNET.DEPTH": (WEIGHTS, "the residual blocks"),
    "RESNET.WIDTH_PER_GROUP": (WEIGHTS, "the channels of the first convolution"),
    "RESNET.NUM_BLOCK_TEMP_KERNEL": (WEIGHTS, "the kernels"),
    "NONLOCAL.LOCATION": (WEIGHTS, "the blocks' names"),
    "DATA.INPUT_CHANNEL_NUM": (WEIGHTS, "the channels of the first convolution"),
    # before or after what a trained network computes from a clip
    "MODEL.HEAD_ACT": (NOTHING, "comes after the logits"),
    "MODEL.DROPOUT_RATE": (NOTHING, "in training only"),
    "MODEL.DROPCONNECT_RATE": (NOTHING, "in training only; ResNet does not read it"),
    "MODEL.FC_INIT_STD": (NOTHING, "where weights start"),
    "MODEL.ACT_CHECKPOINT": (NOTHING, "memory"),
    "MODEL.DETACH_FINAL_FC": (NOTHING, "gradients"),
    "MODEL.FROZEN_BN": (NOTHING, "in training only"),
    "RESNET.INPLACE_RELU": (NOTHING, "memory"),
    "RESNET.ZERO_INIT_FINAL_BN": (NOTHING, "where weights start"),
    "RESNET.ZERO_INIT_FINAL_CONV": (NOTHING, "where weights start"),
    "BN.NUM_SPLITS": (NOTHING, "of sub_batchnorm, which is refused"),
    "BN.NUM_SYNC_DEVICES": (NOTHING, "statistics in training"),
    "BN.GLOBAL_SYNC": (NOTHING, "statistics in training"),
    "DATA.TRAIN_CROP_SIZE": (NOTHING, "the window of the classifier, which is the whole map of a training clip"),
    # the classifier of regions, which is left over
    "DETECTION.ALIGNED": (NOTHING, "of the classifier of regions"),
    "DETECTION.SPATIAL_SCALE_FACTOR": (NOTHING, "of the classifier of regions"),
    "DETECTION.ROI_XFORM_RESOLUTION": (NOTHING, "of the classifier of regions"),
    # our networks have one value, the first; with the second another network would come out
    "MODEL.MODEL_NAME": (ONLY, ("ResNet", "PTVResNet")),
    "RESNET.TRANS_FUNC": (ONLY, ("bottleneck_transform", "basic_transform")),
    "RESNET.NUM_GROUPS": (ONLY, (1, 32)),
    "RESNET.STRIDE_1X1": (ONLY, (False, True)),
    "BN.NORM_TYPE": (ONLY, ("batchnorm", "sub_batchnorm")),
    "BN.EPSILON": (ONLY, (1e-5, 1e-3)),  # of the first version
    # arguments of ours
    "MODEL.ARCH": (CONVERTED, "pool2_frames"),
    "RESNET.SPATIAL_STRIDES": (CONVERTED, "spatial_strides"),
    "RESNET.SPATIAL_DILATIONS": (CONVERTED, "dilations"),
    "NONLOCAL.GROUP": (CONVERTED, "nonlocal_groups"),
    "NONLOCAL.INSTANTIATION": (CONVERTED, "pairwise"),
    "NONLOCAL.POOL": (CONVERTED, "subsample"),
    "DATA.NUM_FRAMES": (CONVERTED, "the length of a group"),
    "DETECTION.ENABLE": (CONVERTED, "the classifier is left over"),
}
"""Every key that the network's code reads: what becomes of it, and why; of `only`, the value and another one."""

NLN: Mapping[str, Any] = {
    "MODEL": {"MODEL_NAME": "ResNet", "ARCH": "i3d", "NUM_CLASSES": 400, "DROPOUT_RATE": 0.5},
    "RESNET": {"DEPTH": 50, "STRIDE_1X1": False, "NUM_BLOCK_TEMP_KERNEL": [[3], [4], [6], [3]]},
    "NONLOCAL": {
        "LOCATION": [[[]], [[1, 3]], [[1, 3, 5]], [[]]],
        "GROUP": [[1], [1], [1], [1]],
        "INSTANTIATION": "softmax",
    },
    "DATA": {"NUM_FRAMES": 8, "PATH_TO_DATA_DIR": "/videos", "TRAIN_JITTER_SCALES": [256, 320]},
    "SOLVER": {"BASE_LR": 0.1},
    "NUM_GPUS": 8,
}
"""The configuration of an I3D with five blocks, cut short."""

SLOWFAST = Program(1, ((1, 3, 3), (1, 2, 2), (0, 1, 1)))
I3D_NL = Layout(temporal=I3D, blocks=FIVE)
SLOW_NL = Layout(stem_frames=1, temporal={4: set(range(6)), 5: {0, 1, 2}}, blocks=FIVE)


def changed(settings: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
    copied = copy.deepcopy(dict(settings))
    for section, keys in sections.items():
        copied[section] = {**copied.get(section, {}), **keys}
    return copied


def test_every_key_that_the_code_reads_is_in_the_readers_table() -> None:
    known = {f"{section}.{key}": entry for section, keys in SECTIONS.items() for key, entry in keys.items()}
    known |= {f"DATA.{key}": entry for key, entry in SHARED.items()}
    assert {key: known[key].kind for key in READ} == {key: kind for key, (kind, _) in READ.items()}
    # what the reader knows beyond that is read by no network of one pathway
    assert {known[key].kind for key in known.keys() - READ.keys()} == {NOTHING}


def refusal(settings: object, folder: Path) -> str:
    torch.save({"model_state": {"s1.x": torch.zeros(1)}, "cfg": yaml.safe_dump(settings)}, folder / "x.pyth")
    with pytest.raises(UserError) as error:
        convert(folder / "x.pyth", "slowfast")
    return str(error.value)


@pytest.mark.parametrize("key", [key for key, (kind, _) in READ.items() if kind == ONLY])
def test_what_our_networks_do_not_have_is_refused_by_name(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    own, other = READ[key][1]
    assert f"{key}={other!r} changes the network's output" in refusal(
        changed(NLN, **{section: {name: other}}), tmp_path
    )
    assert "none of the networks" in refusal(changed(NLN, **{section: {name: own}}), tmp_path)  # only the weights lack


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"RESNET": {"STRIDE_3X3": 1}}, "RESNET.STRIDE_3X3=1: a setting that is not known here (nearest: STRIDE_1X1"),
        ({"MODEL": {"ARCH": "slowfast"}}, "MODEL.ARCH=slowfast: only c2d, i3d"),
        ({"MODEL": {"ARCH": "x3d"}}, "MODEL.ARCH=x3d"),
        ({"NONLOCAL": {"POOL": [[[1, 2, 2]], [[2, 2, 2]], [[2, 2, 2]], [[1, 2, 2]]]}}, "NONLOCAL.POOL"),
        ({"NONLOCAL": {"POOL": [[[1, 2, 2]], [[1, 1, 1]], [[1, 2, 2]], [[1, 2, 2]]]}}, "NONLOCAL.POOL"),
        ({"NONLOCAL": {"GROUP": [[1], [3], [1], [1]]}}, "NONLOCAL.GROUP=((1,), (3,), (1,), (1,)) does not divide"),
        (
            {"RESNET": {"SPATIAL_STRIDES": [[1], [2], [2]]}},
            "spatial_strides=((1,), (2,), (2,)): expected a whole number",
        ),
        ({"RESNET": {"SPATIAL_DILATIONS": [[1], [1], [1], [0]]}}, "dilations="),
    ],
)
def test_other_settings_are_refused_in_words(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(changed(NLN, **sections), tmp_path)


def test_other_sections_are_not_the_networks() -> None:
    """A training configuration has many; DATA is the data's but for what the network reads of it."""
    assert not {"SOLVER", "TRAIN", "DATA_LOADER", "AVA"} & SECTIONS.keys()


@dataclass(frozen=True)
class Case:
    settings: Mapping[str, Any]
    layout: Layout
    program: Program
    model: Mapping[str, Any]
    clip: tuple[int, int, int] = (8, 32, 48)
    allow: tuple[str, ...] = field(default=())


AVA = {"SPATIAL_STRIDES": [[1], [2], [2], [1]], "SPATIAL_DILATIONS": [[1], [1], [1], [2]]}
OF_AVA = {"spatial_strides": {"res5": 1}, "dilations": {"res5": 2}}
NO_POOL = [[[1, 1, 1]] for _ in range(4)]

ALL_AT_ONCE = Case(
    changed(
        NLN,
        MODEL={"ARCH": "slow"},
        RESNET=AVA,
        NONLOCAL={"GROUP": [[1], [2], [4], [1]], "POOL": NO_POOL},
        DATA={"NUM_FRAMES": 4},
    ),
    SLOW_NL,
    replace(SLOWFAST, pool2=False, subsample=False, group_frames={3: 2, 4: 1}, strides={5: 1}, dilations={5: 2}),
    {"name": "slow_r50", "subsample": False, "nonlocal_groups": {"res3": 2, "res4": 1}} | OF_AVA,
    (4, 32, 48),
)
CASES = {
    "strides and dilations": Case(
        changed(NLN, RESNET=AVA), I3D_NL, replace(SLOWFAST, strides={5: 1}, dilations={5: 2}), OF_AVA
    ),
    "groups after pool2": Case(
        changed(NLN, NONLOCAL={"GROUP": [[1], [2], [4], [1]]}),
        I3D_NL,
        replace(SLOWFAST, group_frames={3: 2, 4: 1}),
        {"nonlocal_groups": {"res3": 2, "res4": 1}},
    ),
    "no sub-sampling": Case(
        changed(NLN, NONLOCAL={"POOL": NO_POOL}), I3D_NL, replace(SLOWFAST, subsample=False), {"subsample": False}
    ),
    "no pool after res2": Case(
        changed(NLN, MODEL={"ARCH": "i3d_nopool"}), I3D_NL, replace(SLOWFAST, pool2=False), {"pool2_frames": 1}
    ),
    "2d": Case(
        changed(NLN, MODEL={"ARCH": "2d"}),
        Layout(stem_frames=1, blocks=FIVE),
        replace(SLOWFAST, pool2=False),
        {"name": "c2d_r50", "pool2_frames": 1},
    ),
    "other strides": Case(
        changed(NLN, RESNET={"SPATIAL_STRIDES": [[2], [1], [2], [2]]}),
        I3D_NL,
        replace(SLOWFAST, strides={2: 2, 3: 1}),
        {"spatial_strides": {"res2": 2, "res3": 1}},
    ),
}


def check(case: Case, folder: Path) -> None:
    weights = random_weights(case.layout, names.slowfast)
    torch.save({"model_state": weights, "cfg": yaml.safe_dump(case.settings)}, folder / "x.pyth")
    converted = convert(folder / "x.pyth", "slowfast")
    assert converted.model | dict(case.model) == converted.model
    x = torch.randn(1, 3, *case.clip, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = converted.build()(x)
    wanted = forward(case.layout, case.program, weights, names.slowfast, x)
    assert relative(got, wanted) < 1e-4
    usual = replace(SLOWFAST, pool2=case.program.pool2 != SLOWFAST.pool2)
    assert relative(forward(case.layout, usual, weights, names.slowfast, x), wanted) > 1e-3  # the settings matter


def test_logits_with_all_that_can_be_converted(tmp_path: Path) -> None:
    check(ALL_AT_ONCE, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
def test_logits_with_each_setting(case: str, tmp_path: Path) -> None:
    check(CASES[case], tmp_path)


def test_a_network_that_looks_at_regions_comes_without_its_classifier(tmp_path: Path) -> None:
    weights = constant_weights(replace(SLOW_NL, blocks=None, classes=80), names.slowfast)
    settings = changed(NLN, MODEL={"ARCH": "slow", "NUM_CLASSES": 80}, RESNET=AVA, DETECTION={"ENABLE": True})
    torch.save({"model_state": weights, "cfg": yaml.safe_dump(settings)}, tmp_path / "ava.pyth")
    with pytest.raises(UserError, match=r"left over head\.projection\.weight \(it classifies regions \(DETECTION"):
        convert(tmp_path / "ava.pyth", "slowfast")
    converted = convert(tmp_path / "ava.pyth", "slowfast", allow=["head.*", "fc.*"], num_classes=3)
    assert converted.model | OF_AVA | {"name": "slow_r50"} == converted.model
    assert converted.report.missing.keys() == {"fc.weight", "fc.bias"}
    assert converted.report.left_over.keys() == {"head.projection.weight", "head.projection.bias"}


# ---- SlowFast's model zoo has files of Caffe2, with the blobs of those released with the paper


def blobs(path: Path, layout: Layout) -> Path:
    path.write_bytes(
        py2_pickle.dumps({"blobs": {k: v.numpy() for k, v in constant_weights(layout, names.caffe2).items()}})
    )
    return path


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    path = tmp_path / "I3D_NLN_8x8_R50.yaml"
    path.write_text(yaml.safe_dump(changed(NLN, RESNET=AVA)))
    return path


def test_a_caffe2_file_of_the_zoo_is_told_apart_by_its_configuration(yaml_file: Path, tmp_path: Path) -> None:
    path = blobs(tmp_path / "I3D_NLN_8x8_R50.pkl", Layout(temporal=I3D))
    with pytest.raises(UserError, match=r"pool1_padding changes the output.*SlowFast's zoo give its configuration"):
        convert(path, "caffe2")
    model = convert(path, "caffe2", config=yaml_file).model
    assert model["pool1_padding"] == 1
    assert model | OF_AVA | {"geometry": "sparse", "pool2_frames": 2, "pairwise": "embedded_gaussian"} == model


def test_released_files_are_known_by_their_names(tmp_path: Path) -> None:
    """Also 8x8, of which SlowFast has networks, too."""
    model = convert(blobs(tmp_path / "i3d_baseline_8x8_IN_pretrain_400k.pkl", Layout(temporal=I3D)), "caffe2").model
    assert (model["geometry"], model["pool1_padding"]) == ("sparse", 0)


def test_a_caffe2_file_with_two_pathways_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "SLOWFAST_8x8_R50.pkl"
    path.write_bytes(py2_pickle.dumps({"blobs": {"t_res2_0_branch2a_w": torch.zeros(1).numpy()}}))
    with pytest.raises(UserError, match="two pathways"):
        convert(path, "caffe2")


@pytest.mark.full
def test_logits_of_a_caffe2_file_of_the_zoo(yaml_file: Path, tmp_path: Path) -> None:
    weights = random_weights(I3D_NL, names.caffe2)
    path = tmp_path / "x.pkl"
    path.write_bytes(py2_pickle.dumps({"blobs": {key: value.numpy() for key, value in weights.items()}}))
    converted = convert(path, "caffe2", config=yaml_file)
    x = torch.randn(1, 3, 8, 32, 48, generator=torch.Generator().manual_seed(1))
    program = replace(SLOWFAST, strides={5: 1}, dilations={5: 2})
    with torch.no_grad():
        assert relative(converted.build()(x), forward(I3D_NL, program, weights, names.caffe2, x)) < 1e-4
