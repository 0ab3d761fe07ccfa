"""mmaction2's settings: those that its backbones and its head read are converted, without effect, or refused by name.

Listed by hand from `resnet3d.py`, `resnet3d_slowfast.py` (ResNet3dPathway), `resnet3d_slowonly.py`, `i3d_head.py` and
`base.py` of mmaction2, and `non_local.py` and `norm.py` of mmcv; where these run, the lists are held against them.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import mmaction2
from helpers.networks import randomise
from helpers.video_weights import relative
from nlnet.checkpoints import convert
from nlnet.checkpoints.sources.mmaction2 import BACKBONES, HEAD, MODEL
from nlnet.errors import UserError

CONVERTED, WEIGHTS, NOTHING, ONLY = "converted", "in the weights", "without effect", "only"

RESNET3D: Mapping[str, tuple[str, str, Any]] = {
    # the names and shapes in the file; where they fit no network of ours they are refused
    "depth": (WEIGHTS, "the residual blocks", 101),
    "stage_blocks": (WEIGHTS, "the residual blocks", (3, 4, 6, 2)),
    "num_stages": (WEIGHTS, "the stages", None),  # with the strides of so many
    "in_channels": (WEIGHTS, "the channels of the first convolution", 2),
    "base_channels": (WEIGHTS, "the channels of the first convolution", 32),
    "conv1_kernel": (WEIGHTS, "the first convolution", (3, 7, 7)),
    "inflate": (WEIGHTS, "the kernels", (0, 0, 0, 0)),
    "inflate_style": (WEIGHTS, "the kernels", "3x3x3"),
    "non_local": (WEIGHTS, "the blocks' names", ((0, 0, 0), (0, 1, 0, 1), (0,) * 6, (0, 0, 0))),
    # arguments of ours
    "spatial_strides": (CONVERTED, "spatial_strides", (1, 2, 2, 1)),
    "dilations": (CONVERTED, "dilations", (1, 1, 2, 4)),
    "conv1_stride_t": (CONVERTED, "geometry, with pool1_stride_t", None),
    "pool1_stride_t": (CONVERTED, "geometry, with conv1_stride_t", None),
    "with_pool2": (CONVERTED, "pool2_frames", True),
    "non_local_cfg": (CONVERTED, "a section of its own", None),
    # our networks have one value; another one is another network
    "out_indices": (ONLY, "the last stage's map is what is classified", (2,)),
    "temporal_strides": (ONLY, "frames are kept", (1, 1, 2, 2)),
    "conv1_stride_s": (ONLY, "", 1),
    "pool1_stride_s": (ONLY, "", 1),
    "with_pool1": (ONLY, "", False),
    "style": (ONLY, "the stride is in the 3x3 convolution", "caffe"),
    "conv_cfg": (ONLY, "a section of its own", None),
    "norm_cfg": (ONLY, "a section of its own", None),
    "act_cfg": (ONLY, "a section of its own", None),
    # where weights start, what is trained, and how much memory that takes
    "frozen_stages": (NOTHING, "gradients", 2),
    "norm_eval": (NOTHING, "in training only", True),
    "with_cp": (NOTHING, "memory", True),
    "zero_init_residual": (NOTHING, "where weights start", False),
    "pretrained": (NOTHING, "where weights start", "torchvision://resnet50"),
    "pretrained2d": (NOTHING, "where weights start", False),
    "init_cfg": (NOTHING, "where weights start", {"type": "Pretrained"}),
}
"""Every key of a backbone: what becomes of it, why, and a value other than the one in SLOWONLY."""

PATHWAY: Mapping[str, tuple[str, str, Any]] = {
    "lateral": (ONLY, "a second pathway", True),
    "lateral_inv": (NOTHING, "of lateral connections", True),
    "lateral_norm": (NOTHING, "of lateral connections", True),
    "lateral_infl": (NOTHING, "of lateral connections", 4),
    "lateral_activate": (NOTHING, "of lateral connections", (0, 1, 1, 1)),
    "speed_ratio": (NOTHING, "of lateral connections", 4),
    "channel_ratio": (NOTHING, "of lateral connections", 4),
    "fusion_kernel": (NOTHING, "of lateral connections", 7),
}
"""What SlowOnly has besides."""

BLOCK: Mapping[str, tuple[str, str]] = {
    "mode": (CONVERTED, "pairwise"),
    "use_scale": (CONVERTED, "scale"),
    "sub_sample": (WEIGHTS, "the names of g"),
    "reduction": (ONLY, "half of the channels"),
    "conv_cfg": (ONLY, "a section of its own"),
    "norm_cfg": (ONLY, "a section of its own"),
    "std": (NOTHING, "where weights start"),
    "zeros_init": (NOTHING, "where weights start"),
}
"""Of `non_local_cfg`; `in_channels` is the stage's."""

HEAD_READ: Mapping[str, tuple[str, str]] = {
    "num_classes": (WEIGHTS, "the rows of fc_cls"),
    "in_channels": (WEIGHTS, "the columns of fc_cls"),
    "spatial_type": (ONLY, "the mean"),
    "dropout_ratio": (NOTHING, "in training only"),
    "init_std": (NOTHING, "where weights start"),
    "init_cfg": (NOTHING, "where weights start"),
    "loss_cls": (NOTHING, "in training only"),
    "multi_class": (NOTHING, "in training only"),
    "label_smooth_eps": (NOTHING, "in training only"),
    "topk": (NOTHING, "a metric"),
    "average_clips": (NOTHING, "comes after the logits"),
}

REFUSED: Mapping[str, Any] = {
    "neck.type": "TPN",
    "type": "RecognizerGCN",
    "backbone.type": "ResNet3dCSN",
    "backbone.norm_cfg.type": "GN",
    "backbone.norm_cfg.eps": 1e-3,
    "backbone.norm_cfg.affine": False,
    "backbone.norm_cfg.track_running_stats": False,
    "backbone.norm_cfg.epsilon": 1e-5,
    "backbone.act_cfg.type": "SiLU",
    "backbone.conv_cfg.type": "Conv2plus1d",
    "backbone.conv_cfg.padding_mode": "reflect",
    "backbone.non_local_cfg.reduction": 4,
    "backbone.non_local_cfg.norm_cfg.eps": 1e-3,
    "backbone.non_local_cfg.conv_cfg.type": "Conv2d",
    "backbone.with_attention": True,
    "cls_head.type": "SlowFastHead",
    "cls_head.spatial_type": "max",
    "cls_head.head_gate": True,
} | {f"backbone.{key}": other for key, (kind, _, other) in {**RESNET3D, **PATHWAY}.items() if kind == ONLY and other}
"""Settings of which no network of ours is."""

SLOWONLY: Mapping[str, Any] = {
    "type": "Recognizer3D",
    "backbone": {
        "type": "ResNet3dSlowOnly",
        "depth": 50,
        "pretrained": None,
        "lateral": False,
        "conv1_kernel": (1, 7, 7),
        "norm_cfg": {"type": "BN3d", "requires_grad": True},
        "non_local": ((0, 0, 0), (1, 0, 1, 0), (0, 0, 0, 0, 1, 0), (0, 0, 0)),
        "non_local_cfg": {"sub_sample": True, "use_scale": True, "norm_cfg": {"type": "BN3d"}, "mode": "dot_product"},
    },
    "cls_head": {"type": "I3DHead", "in_channels": 2048, "num_classes": 7, "spatial_type": "avg"},
    "data_preprocessor": {"type": "ActionDataPreprocessor", "mean": [123.675, 116.28, 103.53]},
}
"""A model's configuration, cut short."""


def changed(key: str, value: Any, settings: Mapping[str, Any] = SLOWONLY) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    below = settings.get(first, {})
    return {**settings, first: changed(rest, value, below) if rest else value}


def kinds(table: Mapping[str, Any]) -> dict[str, str]:
    """A section counts as `only`, as none of those here has a key that is converted, but for the blocks'."""
    own = {key: entry.kind for key, entry in table.items() if key not in ("type", "_scope_") and hasattr(entry, "kind")}
    sections = {key: ONLY for key, entry in table.items() if not hasattr(entry, "kind")}
    return own | sections | ({"non_local_cfg": CONVERTED} if "non_local_cfg" in table else {})


def test_every_key_of_the_lists_is_in_the_readers_tables() -> None:
    of_resnet = {key: kind for key, (kind, _, _) in RESNET3D.items()}
    assert kinds(BACKBONES["ResNet3d"]) == of_resnet
    of_pathway = {key: kind for key, (kind, _, _) in PATHWAY.items()}
    assert kinds(BACKBONES["ResNet3dSlowOnly"]) == of_resnet | of_pathway
    assert kinds(BACKBONES["ResNet3d"]["non_local_cfg"]) == {key: kind for key, (kind, _) in BLOCK.items()}  # type: ignore[arg-type]
    assert kinds(HEAD) == {key: kind for key, (kind, _) in HEAD_READ.items()}
    assert kinds(MODEL).keys() >= {"backbone", "cls_head", "neck", "roi_head", "data_preprocessor"}


def parameters(*classes: type) -> set[str]:
    names = {name for c in classes for name in inspect.signature(c.__init__).parameters}  # type: ignore[misc]
    return names - {"self", "kwargs"}


def peer(name: str) -> Any:
    pytest.importorskip("mmcv", reason="mmcv-lite is installed by `make peers`")
    pytest.importorskip("mmaction", reason="mmaction2 is installed by `make peers`")
    return mmaction2.module(name)


def test_the_lists_are_complete() -> None:
    backbones, heads = peer("mmaction.models.backbones"), peer("mmaction.models.heads")
    slow_only = backbones.ResNet3dSlowOnly
    assert parameters(backbones.ResNet3d) == RESNET3D.keys()
    assert (
        parameters(*slow_only.__mro__[: slow_only.__mro__.index(backbones.ResNet3d)]) <= {**RESNET3D, **PATHWAY}.keys()
    )
    assert parameters(slow_only.__mro__[1]) == PATHWAY.keys()
    assert parameters(heads.I3DHead, heads.BaseHead) == HEAD_READ.keys()
    block = peer("mmcv.cnn.bricks.non_local").NonLocal3d
    weights = {name for name in inspect.signature(block.init_weights).parameters if name != "self"}
    assert parameters(*block.__mro__[:2]) - {"in_channels"} | weights == BLOCK.keys()


def saved(net: nn.Module | None, model: Mapping[str, Any], path: Path, start: str = "") -> Path:
    state = {"backbone.conv1.conv.weight": torch.zeros(64, 3, 1, 7, 7)}
    if net is not None:
        state = {f"{start}{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"cfg": f"model = {dict(model)!r}\n"}}, path)
    return path


@pytest.mark.parametrize("key", REFUSED)
def test_what_our_networks_do_not_have_is_refused_by_name(key: str, tmp_path: Path) -> None:
    name = "neck" if key == "neck.type" else key
    with pytest.raises(UserError, match=rf"model\.{name}=") as error:
        convert(saved(None, changed(key, REFUSED[key]), tmp_path / "x.pth"), "mmaction2")
    assert (
        "cannot be converted" in str(error.value) or "not known here" in str(error.value) or "only" in str(error.value)
    )


@pytest.mark.parametrize("strides", [(1, 2), (2, 1), (4, 4)])
def test_strides_over_time_are_those_of_a_geometry(strides: tuple[int, int], tmp_path: Path) -> None:
    model = changed("backbone.conv1_stride_t", strides[0])
    model = changed("backbone.pool1_stride_t", strides[1], model)
    with pytest.raises(UserError, match="conv1_stride_t, pool1_stride_t"):
        convert(saved(None, model, tmp_path / "x.pth"), "mmaction2")


# ---- against the program


def network(model: Mapping[str, Any], *, random: bool = True) -> mmaction2.Recognizer:
    backbones, heads = peer("mmaction.models.backbones"), peer("mmaction.models.heads")
    backbone, head = ({k: v for k, v in model[part].items() if k != "type"} for part in ("backbone", "cls_head"))
    net = mmaction2.Recognizer(getattr(backbones, model["backbone"]["type"])(**backbone), heads.I3DHead(**head))
    if random:
        randomise(net, embeddings=0.05)
    return net


@torch.no_grad()
def check(model: Mapping[str, Any], folder: Path, **wanted: Any) -> None:
    theirs = network(model)
    converted = convert(saved(theirs, model, folder / "x.pth"), "mmaction2")
    assert converted.model | wanted == converted.model
    x = torch.randn(1, 3, 4, 32, 48, generator=torch.Generator().manual_seed(1))
    assert relative(converted.build()(x), theirs(x)) < 1e-4


def all_at_once() -> dict[str, Any]:
    model = changed("backbone.spatial_strides", (1, 2, 2, 1))
    model = changed("backbone.dilations", (1, 1, 1, 2), model)
    model = changed("backbone.with_pool2", True, model)
    return changed("backbone.non_local_cfg.sub_sample", False, model)


ALL_AT_ONCE: Mapping[str, Any] = {
    "name": "slow_r50",
    "spatial_strides": {"res5": 1},
    "dilations": {"res5": 2},
    "pool2_frames": 2,
    "subsample": False,
    "pairwise": "dot_product",
}


def test_all_that_can_be_converted_becomes_an_argument(tmp_path: Path) -> None:
    """The logits are compared among the tests that take minutes, for all at once and one by one."""
    peer("mmaction.models")
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in network(all_at_once(), random=False).state_dict().items()}
    zeros = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    torch.save({"state_dict": zeros, "meta": {"cfg": f"model = {all_at_once()!r}"}}, tmp_path / "x.pth")
    found = convert(tmp_path / "x.pth", "mmaction2").model
    assert found | dict(ALL_AT_ONCE) == found


@pytest.mark.full
def test_logits_with_all_that_can_be_converted(tmp_path: Path) -> None:
    check(all_at_once(), tmp_path, **ALL_AT_ONCE)


@pytest.mark.full
@pytest.mark.parametrize(
    "key", [key for key, (kind, _, other) in {**RESNET3D, **PATHWAY}.items() if kind != ONLY and other is not None]
)
def test_logits_with_each_setting_changed(key: str, tmp_path: Path) -> None:
    """The program's with the setting, or a refusal; `without effect` is none."""
    kind, _, other = {**RESNET3D, **PATHWAY}[key]
    model = changed(f"backbone.{key}", other)
    if key in ("depth", "stage_blocks"):
        model = changed("backbone.non_local", (0, 0, 0, 0), model)
    if key == "base_channels":
        model = changed("cls_head.in_channels", 1024, model)
    if key in ("stage_blocks", "in_channels", "base_channels", "conv1_kernel"):
        with pytest.raises(UserError, match="none of the networks has these kernels"):
            check(model, tmp_path)
    else:
        check(model, tmp_path)
    if kind == NOTHING:
        x = torch.randn(1, 3, 4, 32, 48, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert torch.equal(network(model)(x), network(SLOWONLY)(x))


@pytest.mark.full
@pytest.mark.parametrize(
    ("key", "other"),
    [("style", "caffe"), ("temporal_strides", (1, 1, 2, 2)), ("pool1_stride_s", 1), ("with_pool1", False)],
)
def test_what_is_refused_changes_the_logits(key: str, other: Any) -> None:
    x = torch.randn(1, 3, 4, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative(network(changed(f"backbone.{key}", other))(x), network(SLOWONLY)(x)) > 1e-3


AVA = "detection/slowonly/slowonly_kinetics400-pretrained-r50-nl_8xb16-8x8x1-20e_ava21-rgb"


def ava() -> tuple[nn.Module, Path]:
    """The backbone of a network released for AVA, and its configuration."""
    backbones = peer("mmaction.models.backbones")
    model, file = mmaction2.settings(AVA)
    return backbones.ResNet3dSlowOnly(**{key: value for key, value in model["backbone"].items() if key != "type"}), file


def with_head(backbone: Mapping[str, torch.Tensor], path: Path) -> Path:
    head = {"roi_head.bbox_head.fc_cls.weight": torch.zeros(81, 8), "roi_head.bbox_head.fc_cls.bias": torch.zeros(81)}
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in backbone.items()} | head}, path)
    return path


def test_a_network_for_ava_comes_without_its_classifier(tmp_path: Path) -> None:
    """res5 keeps the map of res4; its head classifies regions, and is left over."""
    theirs, file = ava()
    zeros = {key: torch.zeros(()).expand(value.shape) for key, value in theirs.state_dict().items()}
    path = with_head(zeros, tmp_path / "ava.pth")
    with pytest.raises(UserError, match=r"left over roi_head\.bbox_head\.fc_cls\.weight"):
        convert(path, "mmaction2", config=file)
    converted = convert(path, "mmaction2", config=file, allow=["roi_head*", "fc.*"])
    assert converted.model["spatial_strides"] == {"res5": 1}
    assert converted.report.missing.keys() == {"fc.weight", "fc.bias"}


@pytest.mark.full
def test_features_of_a_network_for_ava(tmp_path: Path) -> None:
    theirs, file = ava()
    randomise(theirs)
    path = with_head(theirs.state_dict(), tmp_path / "ava.pth")
    ours = convert(path, "mmaction2", config=file, allow=["roi_head*", "fc.*"]).build()
    x = torch.randn(1, 3, 4, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert theirs(x).shape == (1, 2048, 4, 3, 3)
        assert relative(ours.features(x), theirs(x)) < 1e-4
