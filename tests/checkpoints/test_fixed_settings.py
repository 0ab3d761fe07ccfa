"""Programs whose files carry no settings: what their code takes, by hand, and how a reader knows it.

"in the weights": names and shapes say it, and what fits no network of ours is refused. "fixed": the functions behind
the released files choose it, nothing in a file tells, and the reader has their choice; where another one was made, an
argument of ours says so (such as `--set`). "asked": released files differ in it, so it must be given unless their name
tells. "without effect": it changes no logits of a trained network.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.networks import randomise
from helpers.video_weights import relative
from nlnet.checkpoints import SOURCES, convert
from nlnet.errors import UserError

WEIGHTS, FIXED, ASKED, NOTHING = "in the weights", "fixed", "asked", "without effect"

PYTORCHVIDEO: Mapping[str, tuple[str, str]] = {
    "input_channel": (WEIGHTS, "the first convolution"),
    "model_depth": (WEIGHTS, "the residual blocks"),
    "model_num_class": (WEIGHTS, "the rows of proj"),
    "stem_dim_out": (WEIGHTS, "the first convolution"),
    "stem_conv_kernel_size": (WEIGHTS, "the first convolution"),
    "stage_conv_a_kernel_size": (WEIGHTS, "the kernels"),
    "stage_conv_b_kernel_size": (WEIGHTS, "the kernels"),
    "stage_conv_b_num_groups": (WEIGHTS, "the kernels"),
    "stage1_pool": (WEIGHTS, "the pool shifts the names"),
    "bottleneck": (WEIGHTS, "the names"),
    "stem": (WEIGHTS, "the names"),
    "head": (WEIGHTS, "the names: detection_head for regions"),
    "stage_spatial_h_stride": (FIXED, "(1, 2, 2, 2); for regions (1, 2, 2, 1); spatial_strides"),
    "stage_spatial_w_stride": (FIXED, "as that of h"),
    "stage_conv_b_dilation": (FIXED, "1; for regions 2 in res5; dilations"),
    "stem_conv_stride": (FIXED, "(1, 2, 2); geometry"),
    "stem_pool": (FIXED, "a maximum"),
    "stem_pool_kernel_size": (FIXED, "(1, 3, 3); pool1_padding"),
    "stem_pool_stride": (FIXED, "(1, 2, 2); geometry"),
    "stage1_pool_kernel_size": (FIXED, "(2, 1, 1); pool2_frames"),
    "stage_temporal_stride": (FIXED, "1"),
    "norm": (FIXED, "BatchNorm3d, eps 1e-5"),
    "activation": (FIXED, "ReLU"),
    "dropout_rate": (NOTHING, "in training only"),
    "head_pool": (FIXED, "a mean"),
    "head_pool_kernel_size": (FIXED, "the whole map of a clip of the released length and size"),
    "head_output_size": (FIXED, "1"),
    "head_activation": (NOTHING, "comes after the logits"),
    "head_output_with_global_average": (FIXED, "a mean of the logits, which is the logits of the mean"),
}
"""`create_resnet`, which the hub's functions call with kernels, pools and a depth."""

REGIONS = {"head_spatial_resolution", "head_spatial_scale", "head_sampling_ratio"}
"""`create_resnet_with_roi_head` has these besides, of a head that is left over."""

TORCHVISION: Mapping[str, tuple[str, str]] = {
    "block": (WEIGHTS, "the names; BasicBlock has no conv3"),
    "layers": (WEIGHTS, "the residual blocks"),
    "num_classes": (WEIGHTS, "the rows of fc"),
    "groups": (WEIGHTS, "the kernels"),
    "width_per_group": (WEIGHTS, "the kernels"),
    "replace_stride_with_dilation": (FIXED, "no; spatial_strides and dilations where all blocks of a stage have it"),
    "norm_layer": (FIXED, "BatchNorm2d, eps 1e-5"),
    "zero_init_residual": (NOTHING, "where weights start"),
}
"""`ResNet`; resnet50 and resnet101 call it."""

GLUONCV: Mapping[str, tuple[str, str]] = {
    "depth": (WEIGHTS, "the residual blocks"),
    "num_stages": (WEIGHTS, "the residual blocks"),
    "num_classes": (WEIGHTS, "the rows of fc"),
    "conv1_kernel_t": (WEIGHTS, "the first convolution"),
    "inflate_freq": (WEIGHTS, "the kernels"),
    "inflate_style": (WEIGHTS, "the kernels"),
    "nonlocal_stages": (WEIGHTS, "the blocks' names"),
    "nonlocal_freq": (WEIGHTS, "the blocks' names"),
    "nonlocal_cfg": (FIXED, "its 'gaussian', embedded and scaled; the others raise in its code; no sub-sampling"),
    "spatial_strides": (FIXED, "(1, 2, 2, 2); spatial_strides"),
    "temporal_strides": (FIXED, "1"),
    "dilations": (FIXED, "1; dilations"),
    "conv1_stride_t": (FIXED, "2; geometry"),
    "pool1_kernel_t": (FIXED, "1; pool1_frames"),
    "pool1_stride_t": (FIXED, "2; geometry"),
    "out_indices": (NOTHING, "not read"),
    "inflate_stride": (NOTHING, "not read"),
    "norm_layer": (FIXED, "BatchNorm3d, eps 1e-5"),
    "norm_kwargs": (FIXED, "none"),
    "feat_ext": (NOTHING, "gives what comes before the logits"),
    "num_segment": (NOTHING, "the mean over several clips"),
    "num_crop": (NOTHING, "the mean over several clips"),
    "pretrained": (NOTHING, "where weights start"),
    "pretrained_base": (NOTHING, "where weights start"),
    "init_std": (NOTHING, "where weights start"),
    "dropout_ratio": (NOTHING, "in training only"),
    "bn_eval": (NOTHING, "in training only"),
    "bn_frozen": (NOTHING, "in training only"),
    "partial_bn": (NOTHING, "in training only"),
    "frozen_stages": (NOTHING, "gradients"),
    "ctx": (NOTHING, "not read"),
}
"""`I3D_ResNetV1`; i3d_resnet50_v1_kinetics400 and its relatives call it, and read of a configuration only what has no
effect here, and the number of classes."""

ALEXHEX7: Mapping[str, tuple[str, str]] = {
    "in_channels": (WEIGHTS, "the columns of g"),
    "inter_channels": (WEIGHTS, "the rows of g"),
    "dimension": (WEIGHTS, "the kernels' dimensions"),
    "sub_sample": (WEIGHTS, "the names: g.0 with a pool behind"),
    "bn_layer": (WEIGHTS, "the names: W.1"),
    "the class": (ASKED, "embedded Gaussian or dot product, which have the same names"),
}
"""`_NonLocalBlockND` of each of its files."""

CAFFE2: Mapping[str, tuple[str, str]] = {
    "MODEL.DEPTH": (WEIGHTS, "the residual blocks"),
    "MODEL.VIDEO_ARC_CHOICE": (WEIGHTS, "the kernels"),
    "MODEL.NUM_CLASSES": (WEIGHTS, "the rows of pred"),
    "MODEL.USE_AFFINE": (WEIGHTS, "norms without statistics; blocks of res3 over four frames"),
    "RESNETS.NUM_GROUPS": (WEIGHTS, "the kernels"),
    "RESNETS.WIDTH_PER_GROUP": (WEIGHTS, "the kernels"),
    "NONLOCAL.CONV3_NONLOCAL": (WEIGHTS, "the blocks' names"),
    "NONLOCAL.CONV4_NONLOCAL": (WEIGHTS, "the blocks' names"),
    "NONLOCAL.LAYER_MOD": (WEIGHTS, "the blocks' names"),
    "NONLOCAL.USE_BN": (WEIGHTS, "the blocks' norms"),
    "NONLOCAL.USE_AFFINE": (WEIGHTS, "the blocks' norms"),
    "NONLOCAL.NO_BIAS": (WEIGHTS, "the blocks' names; ours have biases"),
    "MODEL.MODEL_NAME": (ASKED, "geometry"),
    "NONLOCAL.USE_SOFTMAX": (ASKED, "pairwise"),
    "RESNETS.TRANS_FUNC": (FIXED, "the bottleneck"),
    "NONLOCAL.USE_SCALE": (FIXED, "True in all of its configurations; scale"),
    "NONLOCAL.USE_MAXPOOL": (FIXED, "True in all of its configurations; subsample"),
    "MODEL.BN_EPSILON": (FIXED, "1e-5"),
    "NONLOCAL.BN_EPSILON": (FIXED, "1e-5"),
    "TRAIN.VIDEO_LENGTH": (NOTHING, "the mean goes over all frames"),
    "TRAIN.CROP_SIZE": (NOTHING, "memory of the groups"),
    "TRAIN.BATCH_SIZE": (NOTHING, "memory"),
    "NUM_GPUS": (NOTHING, "memory"),
    "MODEL.ALLOW_INPLACE_RESHAPE": (NOTHING, "memory"),
    "TRAIN.DROPOUT_RATE": (NOTHING, "in training only"),
    "MODEL.BN_MOMENTUM": (NOTHING, "in training only"),
    "NONLOCAL.BN_MOMENTUM": (NOTHING, "in training only"),
    "MODEL.FC_INIT_STD": (NOTHING, "where weights start"),
    "MODEL.BN_INIT_GAMMA": (NOTHING, "where weights start"),
    "NONLOCAL.CONV_INIT_STD": (NOTHING, "where weights start"),
    "NONLOCAL.BN_INIT_GAMMA": (NOTHING, "where weights start"),
    "NONLOCAL.USE_ZERO_INIT_CONV": (NOTHING, "where weights start"),
}
"""The authors' own program, `resnet_video.py`, `resnet_video_org.py`, `resnet_helper.py` and `nonlocal_helper.py`."""

LISTS = [PYTORCHVIDEO, TORCHVISION, GLUONCV, ALEXHEX7, CAFFE2]


def test_each_entry_says_how_it_is_known() -> None:
    assert all(how in (WEIGHTS, FIXED, ASKED, NOTHING) and why for entries in LISTS for how, why in entries.values())


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self", "kwargs"}


def test_the_lists_of_programs_that_are_here_are_complete() -> None:
    torchvision = pytest.importorskip("torchvision")
    assert parameters(torchvision.models.ResNet) == TORCHVISION.keys()
    resnet = pytest.importorskip("pytorchvideo.models.resnet", reason="pytorchvideo is installed by `make peers`")
    assert parameters(resnet.create_resnet) == PYTORCHVIDEO.keys()
    assert parameters(resnet.create_resnet_with_roi_head) == PYTORCHVIDEO.keys() | REGIONS


@pytest.mark.parametrize("source", ["pytorchvideo", "torchvision", "gluoncv", "alexhex7"])
def test_a_configuration_is_never_left_unread(source: str, tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"config=.*x\.yaml: nothing of {source} is read from a config; leave it out"):
        convert(tmp_path / "x.pth", source, config=tmp_path / "x.yaml")
    assert source in SOURCES


# ---- pytorchvideo, whose names say more than which network it is


def meta(make: Any, **options: Any) -> dict[str, torch.Tensor]:
    """The state dict of a network, one number in memory for every tensor."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in make(**options).state_dict().items()}
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def test_pytorchvideos_names_tell_pools_and_regions(tmp_path: Path) -> None:
    hub = pytest.importorskip("pytorchvideo.models.hub.resnet", reason="pytorchvideo is installed by `make peers`")
    path = tmp_path / "x.pyth"
    torch.save({"model_state": meta(hub.c2d_r50)}, path)
    assert convert(path, "pytorchvideo").model["pool2_frames"] == 2
    unpooled = {"stem_conv_kernel_size": (1, 7, 7), "stage_conv_a_kernel_size": ((1, 1, 1),) * 4}
    torch.save({"model_state": meta(hub.create_resnet, **unpooled)}, path)
    model = convert(path, "pytorchvideo").model
    assert (model["name"], model["pool2_frames"]) == ("c2d_r50", 1)
    torch.save({"model_state": meta(hub.slow_r50_detection)}, path)
    with pytest.raises(UserError, match=r"left over detection_head\.proj\.weight \(it classifies regions"):
        convert(path, "pytorchvideo")
    model = convert(path, "pytorchvideo", allow=["detection_head.*", "fc.*"]).model
    assert model | {"name": "slow_r50", "spatial_strides": {"res5": 1}, "dilations": {"res5": 2}} == model


@pytest.mark.full
def test_features_of_pytorchvideos_network_for_regions(tmp_path: Path) -> None:
    hub = pytest.importorskip("pytorchvideo.models.hub.resnet", reason="pytorchvideo is installed by `make peers`")
    theirs: nn.Module = randomise(hub.slow_r50_detection())
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "x.pyth")
    ours = convert(tmp_path / "x.pyth", "pytorchvideo", allow=["detection_head.*", "fc.*"]).build()
    x = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs.get_submodule("model")(x)
        assert wanted.shape == (1, 2048, 4, 4, 4)
        assert relative(ours.features(x), wanted) < 1e-4
