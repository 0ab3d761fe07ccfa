"""SlowFast's C2D, I3D and Slow networks (`.pyth`), with or without non-local blocks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlnet.checkpoints.sources.source import NORM, Rules, Source, leaves, read_torch
from nlnet.errors import UserError
from nlnet.reading import parse_yaml, read_yaml

_PAIRWISE = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}


def read(path: Path, config: Path | None = None) -> Source:
    """A training checkpoint ({"model_state", "cfg", ...}) or its state dict, with `config` its YAML.

    pool1 keeps all frames and is padded; blocks pool before phi and g, scale the softmax and have a batch norm. The
    pairwise function and the pool after res2 are in the configuration only.

    Raises UserError for a two-pathway network, and for blocks in temporal groups or with another pool than 1x2x2.
    """
    tensors, beside = read_torch(path, "model_state")
    if any("pathway1_" in key for key in tensors):
        raise UserError(f"{path}: a SlowFast network with two pathways; only C2D, I3D and Slow can be converted")
    text = beside.get("cfg")
    settings = read_yaml(config) if config else parse_yaml(text, f"{path}, cfg") if isinstance(text, str) else None
    model: dict[str, Any] = {"geometry": "sparse", "pool1_padding": 1, "scale": True}
    model["nonlocal_options"] = {"preset": "official"}
    if isinstance(settings, Mapping):
        model |= _settings(settings, str(config or path))
    unknown = {"pairwise": "It is NONLOCAL.INSTANTIATION of its configuration: give config=FILE.yaml or pairwise."}
    return Source(tensors, _rules(), model, unknown)


def _settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    block = settings.get("NONLOCAL") or {}
    model: dict[str, Any] = {}
    # SlowFast's own default, which a YAML file may leave out, is the dot product
    name = block.get("INSTANTIATION", "dot_product")
    if name not in _PAIRWISE:
        raise UserError(f"{where}: NONLOCAL.INSTANTIATION={name}; expected one of {', '.join(_PAIRWISE)}")
    model["pairwise"] = _PAIRWISE[name]
    if any(leaves(block.get("LOCATION"))):
        if set(leaves(block.get("GROUP"))) - {1}:
            raise UserError(f"{where}: NONLOCAL.GROUP={block['GROUP']}: blocks in temporal groups are not converted")
        pools = {tuple(pool) for stage in block.get("POOL") or () for pool in stage}
        if pools - {(1, 2, 2)}:
            raise UserError(f"{where}: NONLOCAL.POOL={block['POOL']}: only 1x2x2 can be converted")
    if str(settings.get("MODEL", {}).get("ARCH", "")).endswith("nopool"):
        model["pool2_frames"] = 1
    return model


def _rules() -> Rules:
    rules = [
        (r"s1\.pathway0_stem\.conv\.weight", "stem.conv.weight"),
        (rf"s1\.pathway0_stem\.bn\.{NORM}", r"stem.bn.\1"),
        (r"s(\d)\.pathway0_res(\d+)\.branch1\.weight", r"res\1.\2.downsample.0.weight"),
        (rf"s(\d)\.pathway0_res(\d+)\.branch1_bn\.{NORM}", r"res\1.\2.downsample.1.\3"),
        (r"s(\d)\.pathway0_nonlocal(\d+)\.conv_(theta|phi|g|out)\.(weight|bias)", r"res\1.\2_nonlocal.\3.\4"),
        (rf"s(\d)\.pathway0_nonlocal(\d+)\.bn\.{NORM}", r"res\1.\2_nonlocal.norm.\3"),
        (r"head\.projection\.(weight|bias)", r"fc.\1"),
    ]
    for number, letter in enumerate("abc", start=1):
        rules.append((rf"s(\d)\.pathway0_res(\d+)\.branch2\.{letter}\.weight", rf"res\1.\2.conv{number}.weight"))
        rules.append((rf"s(\d)\.pathway0_res(\d+)\.branch2\.{letter}_bn\.{NORM}", rf"res\1.\2.bn{number}.\3"))
    return rules
