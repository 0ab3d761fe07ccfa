"""mmaction2's I3D and SlowOnly networks, with or without non-local blocks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlnet.checkpoints.sources.mmconfig import parse, read_config
from nlnet.checkpoints.sources.source import NORM, Rules, Source, bottleneck_rules, leaves, read_torch
from nlnet.errors import UserError

_BLOCK = "non_local_block"
_IN_BLOCK = {
    "conv": r"conv(\d)\.conv",
    "norm": r"conv(\d)\.bn",
    "shortcut": r"downsample\.conv",
    "shortcut_norm": r"downsample\.bn",
}
"""The patterns of what is in a residual block."""


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
    if settings := _backbone(beside, config, path):
        model |= _from_config(settings, slow, str(config or path))
    where = "Give config=FILE.py (--config), the file it was trained with, or {} itself."
    unknown = {name: where.format(name) for name in ("pairwise", "scale")}
    return Source(tensors, _rules(), model, unknown)


def _backbone(beside: Mapping[str, Any], config: Path | None, path: Path) -> Mapping[str, Any]:
    """The backbone's settings, from the file given or from the text that the checkpoint carries; empty if neither."""
    if config is not None:
        values = read_config(config)
    else:
        meta = beside.get("meta")
        text = meta.get("cfg") if isinstance(meta, Mapping) else None
        values = parse(text, f"{path}, meta.cfg") if isinstance(text, str) else {}
    backbone = (values.get("model") or {}).get("backbone") or {}
    if config is not None and not backbone:
        raise UserError(f"{config}: no model.backbone of plain values in it")
    return backbone


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


def _from_config(settings: Mapping[str, Any], slow: bool, where: str) -> dict[str, Any]:
    stride = settings.get("conv1_stride_t", 1), settings.get("pool1_stride_t", 1)
    if stride not in ((1, 1), (2, 2)):
        raise UserError(f"{where}: conv1_stride_t, pool1_stride_t = {stride}: only (1, 1) and (2, 2) can be converted")
    model: dict[str, Any] = {"geometry": "sparse" if stride == (1, 1) else "dense"}
    if not slow:
        model["pool2_frames"] = 2 if settings.get("with_pool2", True) else 1
    block = settings.get("non_local_cfg") or {}
    if any(leaves(settings.get("non_local", 0))):
        model["pairwise"] = block.get("mode", "embedded_gaussian")
        if model["pairwise"] == "embedded_gaussian":
            model["scale"] = bool(block.get("use_scale", True))
        if block.get("reduction", 2) != 2:
            raise UserError(f"{where}: non_local_cfg.reduction={block['reduction']}: only 2 can be converted")
    return model


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
