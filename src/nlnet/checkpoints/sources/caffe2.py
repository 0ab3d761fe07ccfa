"""The released networks (Caffe2 `.pkl`): with batch norm, with folded norms for long clips, and 2-D from ImageNet."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from nlnet.checkpoints.sources.caffe2_pickle import read_blobs
from nlnet.checkpoints.sources.source import Rules, Source

_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}  # riv holds the variance itself
_TRAINING = (r".*_momentum", "lr", "model_iter", r"(optimizer|cross)_.*", "weight_order")
_GEOMETRY = {"32x2": "dense", "128x1": "dense", "8x8": "sparse", "32x4": "sparse"}


def read(path: Path, config: Path | None = None) -> Source:
    """Blob names of the released files. Their networks pool without padding, before phi and g, and scale the softmax.

    Dense and sparse networks have the same blobs: which one it is stands in the released files' names only. Long clips
    were trained with norms folded to s x + b, without norm in the non-local blocks, and with res3's blocks over four
    frames at a time.
    """
    blobs = {name: torch.from_numpy(array.copy()) for name, array in read_blobs(path).items()}
    image = blobs["conv1_w"].ndim == 4 if "conv1_w" in blobs else False
    folded = "res_conv1_bn_s" in blobs and "res_conv1_bn_rm" not in blobs
    model: dict[str, Any] = {"pool1_padding": 1 if image else 0, "pairwise": "embedded_gaussian", "scale": True}
    model["nonlocal_options"] = {"preset": "official"}
    clips = next((g for name, g in _GEOMETRY.items() if re.search(rf"(?<!\d){name}(?!\d)", path.name)), None)
    if image or clips:
        model["geometry"] = "sparse" if image else clips
    if folded and not image:
        model["norm"] = "frozen"
        if any(name.startswith("nonlocal_conv3") for name in blobs):
            model["nonlocal_groups"] = {"res3": 4}
    model["nonlocal_options"] |= {"norm": _block_norm(blobs)}
    geometry = "Give geometry='dense' for networks of 32x2 or 128x1 clips, 'sparse' for 8x8 or 32x4."
    return Source(blobs, _rules(), model, {"geometry": geometry}, _TRAINING, folded_norms=folded)


def _block_norm(names: Iterable[str]) -> str:
    suffixes = {name.rsplit("_bn_")[-1] for name in names if name.startswith("nonlocal_") and "_bn_" in name}
    return "batch" if "rm" in suffixes else "affine" if "s" in suffixes else "none"


def _rules() -> Rules:
    rules = [("conv1_w", "stem.conv.weight"), ("pred_w", "fc.weight"), ("pred_b", "fc.bias")]
    norms = [("res_conv1_bn", "stem.bn")]
    for number, letter in enumerate("abc", start=1):
        rules.append((rf"res(\d)_(\d+)_branch2{letter}_w", rf"res\1.\2.conv{number}.weight"))
        norms.append((rf"res(\d)_(\d+)_branch2{letter}_bn", rf"res\1.\2.bn{number}"))
    rules.append((r"res(\d)_(\d+)_branch1_w", r"res\1.\2.downsample.0.weight"))
    norms.append((r"res(\d)_(\d+)_branch1_bn", r"res\1.\2.downsample.1"))
    for name in ("theta", "phi", "g", "out"):
        rules.append((rf"nonlocal_conv(\d)_(\d+)_{name}_w", rf"res\1.\2_nonlocal.{name}.weight"))
        rules.append((rf"nonlocal_conv(\d)_(\d+)_{name}_b", rf"res\1.\2_nonlocal.{name}.bias"))
    norms.append((r"nonlocal_conv(\d)_(\d+)_bn", r"res\1.\2_nonlocal.norm"))
    return rules + [(f"{blob}_{short}", f"{ours}.{name}") for blob, ours in norms for short, name in _NORM.items()]
