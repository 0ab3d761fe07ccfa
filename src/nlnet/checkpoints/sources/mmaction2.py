"""mmaction2's I3D and SlowOnly networks, with or without non-local blocks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlnet.checkpoints.sources.mmconfig import parse, read_config
from nlnet.checkpoints.sources.settings import Keys, converted, in_weights, only, settle, without_effect
from nlnet.checkpoints.sources.source import NORM, Rules, Source, bottleneck_rules, by_stage, leaves, read_torch
from nlnet.errors import UserError

_BLOCK = "non_local_block"
_IN_BLOCK = {
    "conv": r"conv(\d)\.conv",
    "norm": r"conv(\d)\.bn",
    "shortcut": r"downsample\.conv",
    "shortcut_norm": r"downsample\.bn",
}
"""The patterns of what is in a residual block."""

_NORM_CFG: Keys = {
    "type": only("BN3d", "SyncBN", "MMSyncBN"),
    "eps": only(1e-5),
    "affine": only(True),
    "track_running_stats": only(True),
    "momentum": without_effect(0.1),
    "requires_grad": without_effect(True),
}
_CONV_CFG: Keys = {"type": only("Conv3d")}
_BLOCK_CFG: Keys = {
    "mode": converted("embedded_gaussian"),
    "use_scale": converted(True),
    "sub_sample": in_weights(False),
    "reduction": only(2),
    "conv_cfg": _CONV_CFG,
    "norm_cfg": _NORM_CFG,
    "std": without_effect(),
    "zeros_init": without_effect(),
}
_RESNET3D: Keys = {
    "type": converted("ResNet3d"),
    "depth": in_weights(50),
    "stage_blocks": in_weights(),
    "num_stages": in_weights(4),
    "in_channels": in_weights(3),
    "base_channels": in_weights(64),
    "out_indices": only((3,)),
    "spatial_strides": converted((1, 2, 2, 2)),
    "temporal_strides": only((1, 1, 1, 1)),
    "dilations": converted((1, 1, 1, 1)),
    "conv1_kernel": in_weights((3, 7, 7)),
    "conv1_stride_s": only(2),
    "conv1_stride_t": converted(1),
    "pool1_stride_s": only(2),
    "pool1_stride_t": converted(1),
    "with_pool1": only(True),
    "with_pool2": converted(True),
    "style": only("pytorch"),
    "inflate": in_weights((1, 1, 1, 1)),
    "inflate_style": in_weights("3x1x1"),
    "conv_cfg": _CONV_CFG,
    "norm_cfg": _NORM_CFG,
    "act_cfg": {"type": only("ReLU"), "inplace": without_effect(True)},
    "non_local": in_weights((0, 0, 0, 0)),
    "non_local_cfg": _BLOCK_CFG,
    "frozen_stages": without_effect(-1),
    "norm_eval": without_effect(False),
    "with_cp": without_effect(False),
    "zero_init_residual": without_effect(True),
    "pretrained": without_effect(),
    "pretrained2d": without_effect(True),
    "init_cfg": without_effect(),
}
_SLOWONLY: Keys = dict(_RESNET3D) | {
    "type": converted("ResNet3dSlowOnly"),
    "conv1_kernel": in_weights((1, 7, 7)),
    "inflate": in_weights((0, 0, 1, 1)),
    "with_pool2": converted(False),
    "lateral": only(False),
    # of lateral connections alone
    "lateral_inv": without_effect(),
    "lateral_norm": without_effect(),
    "lateral_infl": without_effect(),
    "lateral_activate": without_effect(),
    "speed_ratio": without_effect(),
    "channel_ratio": without_effect(),
    "fusion_kernel": without_effect(),
}
BACKBONES: Mapping[str, Keys] = {"ResNet3d": _RESNET3D, "ResNet3dSlowOnly": _SLOWONLY}
"""The settings of each backbone that can be converted, with mmaction2's defaults."""

HEAD: Keys = {
    "type": only("I3DHead"),
    "num_classes": in_weights(),
    "in_channels": in_weights(),
    "spatial_type": only("avg"),
    "dropout_ratio": without_effect(0.5),
    "init_std": without_effect(),
    "init_cfg": without_effect(),
    "loss_cls": without_effect(),
    "multi_class": without_effect(),
    "label_smooth_eps": without_effect(),
    "topk": without_effect(),
    "average_clips": without_effect(),
}
"""The settings of the classifier."""

MODEL: Keys = {
    "type": only("Recognizer3D", "FastRCNN"),
    "backbone": converted(None),
    "cls_head": converted(None),
    "neck": only(None),
    "roi_head": without_effect(),  # its weights stay over
    "data_preprocessor": without_effect(),
    "train_cfg": without_effect(),
    "test_cfg": without_effect(),
    "init_cfg": without_effect(),
    "_scope_": without_effect(),
}
"""What a configuration says of the model as a whole."""


def read(path: Path, config: Path | None = None) -> Source:
    """A checkpoint ({"state_dict", "meta"}) or its state dict, with `config` the Python file it was trained with.

    pool1 is padded and takes every other frame in I3D; blocks pool after phi and g, and have no bias before their
    norm. Embedded Gaussian and dot product have the same keys, and whether the softmax is scaled is in the
    configuration alone (off in the I3D ones, on in SlowOnly's).

    Raises UserError for networks that are neither, and for settings that change the logits and have no counterpart.
    """
    tensors, beside = read_torch(path, "state_dict")
    if "backbone.conv1.conv.weight" not in tensors:
        raise UserError(f"{path}: not an I3D or SlowOnly network of mmaction2 (no backbone.conv1.conv.weight)")
    if (first := tensors["backbone.conv1.conv.weight"]).ndim == 4:
        raise UserError(f"{path}: a 2-D backbone of mmaction2; its I3D and SlowOnly can be converted")
    slow = first.shape[2] == 1
    model: dict[str, Any] = {"geometry": "sparse" if slow else "dense", "pool1_padding": 1, "pool1_frames": 1}
    model |= _from_keys(tensors)
    if settings := _model(beside, config, path):
        model |= _from_config(settings, str(config or path))
    where = "Give config=FILE.py (--config), the file it was trained with, or {} itself."
    unknown = {name: where.format(name) for name in ("pairwise", "scale")}
    return Source(tensors, _rules(), model, unknown)


def _model(beside: Mapping[str, Any], config: Path | None, path: Path) -> Mapping[str, Any]:
    """The model's settings, from the file given or from the text that the checkpoint carries; empty if neither."""
    if config is not None:
        values, where = read_config(config), str(config)
    else:
        meta = beside.get("meta")
        text, where = meta.get("cfg") if isinstance(meta, Mapping) else None, f"{path}, meta.cfg"
        if not isinstance(text, str):
            return {}
        values = parse(text, where)
    model = values.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("backbone"), Mapping):
        raise UserError(f"{where}: no model.backbone of plain values in it; give config=FILE.py with them written out")
    return model


def _from_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    blocks = [key for key in keys if f".{_BLOCK}." in key]
    model: dict[str, Any] = {"nonlocal_options": {"preset": "mmcv"}}
    if not blocks:
        return model
    model["subsample"] = any(".g.0.conv." in key for key in blocks)
    if not any(".conv_out.bn." in key for key in blocks):
        model["nonlocal_options"] |= {"norm": "none"}
    if any(".concat_project." in key for key in blocks):
        model["pairwise"] = "concatenation"
    elif not any(".theta." in key for key in blocks):
        model["pairwise"] = "gaussian"
    return model


def _from_config(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    model = settle(_without_scope(given), MODEL, where, "model")
    if model["cls_head"] is not None:
        settle(_without_scope(model["cls_head"]), HEAD, where, "model.cls_head")
    backbone = _without_scope(model["backbone"])
    name = backbone.get("type", "ResNet3d")
    if name not in BACKBONES:
        raise UserError(f"{where}: model.backbone.type={name!r}: only {' and '.join(BACKBONES)} can be converted")
    return _arguments(settle(backbone, BACKBONES[name], where, "model.backbone"), where)


def _arguments(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those of `build_model` for a backbone's settings."""
    stride = settings["conv1_stride_t"], settings["pool1_stride_t"]
    if stride not in ((1, 1), (2, 2)):
        raise UserError(f"{where}: conv1_stride_t, pool1_stride_t = {stride}: only (1, 1) and (2, 2) can be converted")
    model: dict[str, Any] = {"geometry": "sparse" if stride == (1, 1) else "dense"}
    model["pool2_frames"] = 2 if settings["with_pool2"] else 1
    model |= by_stage("spatial_strides", settings["spatial_strides"], (1, 2, 2, 2), where)
    model |= by_stage("dilations", settings["dilations"], (1, 1, 1, 1), where)
    if any(leaves(settings["non_local"])):
        block = settings["non_local_cfg"]
        model["pairwise"] = block["mode"]
        if block["mode"] == "embedded_gaussian":
            model["scale"] = bool(block["use_scale"])
    return model


def _without_scope(settings: object) -> dict[str, Any]:
    """Settings whose type may say whose it is, as in "mmaction.ResNet3d"."""
    plain = dict(settings) if isinstance(settings, Mapping) else {}
    if isinstance(plain.get("type"), str):
        plain["type"] = plain["type"].rpartition(".")[2]
    return plain


def _rules() -> Rules:
    rules = [
        (r"backbone\.conv1\.conv\.weight", "stem.conv.weight"),
        (rf"backbone\.conv1\.bn\.{NORM}", r"stem.bn.\1"),
        (r"cls_head\.fc_cls\.(weight|bias)", r"fc.\1"),
    ]
    for stage in (2, 3, 4, 5):
        block = rf"backbone\.layer{stage - 1}\.(\d+)"
        rules += bottleneck_rules(block, stage, **_IN_BLOCK)
        block += rf"\.{_BLOCK}"
        # ".0." where a pool follows
        rules.append((rf"{block}\.(theta|phi|g)\.(?:0\.)?conv\.(weight|bias)", rf"res{stage}.\1_nonlocal.\2.\3"))
        rules.append((rf"{block}\.conv_out\.conv\.(weight|bias)", rf"res{stage}.\1_nonlocal.out.\2"))
        rules.append((rf"{block}\.conv_out\.bn\.{NORM}", rf"res{stage}.\1_nonlocal.norm.\2"))
        rules.append((rf"{block}\.concat_project\.conv\.weight", rf"res{stage}.\1_nonlocal.concat_project.weight"))
    return rules
