"""The released networks (Caffe2 `.pkl`): with batch norm, with folded norms for long clips, and 2-D from ImageNet."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from nlnet.checkpoints.sources import slowfast
from nlnet.checkpoints.sources.caffe2_pickle import read_blobs
from nlnet.checkpoints.sources.source import Rules, Source
from nlnet.errors import UserError
from nlnet.reading import read_yaml

_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}  # riv holds the variance itself
_TRAINING = (r".*_momentum", "lr", "model_iter", r"(optimizer|cross)_.*", "weight_order")
_GEOMETRY = {"32x2": "dense", "128x1": "dense", "8x8": "sparse", "32x4": "sparse"}
_OF_PAPER = re.compile(r"(c2d|i3d)_(baseline|nonlocal)_8x8_IN_pretrain")
_SAYS = "The name of a file released with the paper says it, such as i3d_nonlocal_8x8_IN_pretrain_400k.pkl"
_ZOO = "for one of SlowFast's zoo give its configuration, config=FILE.yaml"
_UNKNOWN = {
    "geometry": f"{_SAYS}: give geometry='dense' for 32x2 or 128x1 clips, 'sparse' for 8x8 or 32x4; {_ZOO}.",
    "pool1_padding": f"{_SAYS}: give pool1_padding=0 for networks of the paper's authors; {_ZOO}.",
    "pairwise": f"{_SAYS}: give pairwise='embedded_gaussian', or 'dot_product' (USE_SOFTMAX: False); {_ZOO}.",
}


def read(path: Path, config: Path | None = None, geometry: str | None = None) -> Source:
    """Blobs of the networks that were released with the paper, or of SlowFast's model zoo, which have the same names.

    Those of the paper pool without padding (but for images), before phi and g, and scale the softmax. Which of them it
    is stands in the released files' names only: dense and sparse networks have the same blobs. Long clips were trained
    with norms folded to s x + b, without norm in the non-local blocks, and with res3's blocks over four frames at a
    time. SlowFast's are padded and sparse, and what else they do is in their configuration.

    Args:
        path: the file.
        config: SlowFast's YAML, for a file of its zoo.
        geometry: as it was given; there is no dense one of SlowFast's.

    Raises UserError for a network with two pathways, and as the reader of SlowFast does.
    """
    blobs = {name: torch.from_numpy(array.copy()) for name, array in read_blobs(path).items()}
    if any(name.startswith("t_res") for name in blobs):
        raise UserError(f"{path}: a SlowFast network with two pathways; only C2D, I3D and Slow can be converted")
    model: dict[str, Any] = {"scale": True, "nonlocal_options": {"preset": "official", "norm": _block_norm(blobs)}}
    if config is not None:
        settings = read_yaml(config)
        model |= {"geometry": "sparse", "pool1_padding": 1} | slowfast.arguments(settings, str(config))
        return Source(blobs, _rules(), model, {}, _TRAINING, apart=slowfast.regions(settings))
    image = "conv1_w" in blobs and blobs["conv1_w"].ndim == 4
    folded = "res_conv1_bn_s" in blobs and "res_conv1_bn_rm" not in blobs
    model |= _released(path.name, image, folded or geometry == "dense")
    if folded and not image:
        model["norm"] = "frozen"
        if any(name.startswith("nonlocal_conv3") for name in blobs):
            model["nonlocal_groups"] = {"res3": 4}
    return Source(blobs, _rules(), model, _UNKNOWN, _TRAINING, folded_norms=folded)


def _released(name: str, image: bool, of_paper: bool) -> dict[str, Any]:
    """What is known of a file of the paper's authors; what is not said, nobody should guess."""
    model: dict[str, Any] = {"pool1_padding": 0} if of_paper else {}
    if image:
        model |= {"geometry": "sparse", "pool1_padding": 1, "pairwise": "embedded_gaussian"}
    elif clip := re.search(rf"(?<!\d)({'|'.join(_GEOMETRY)})(?!\d)", name):
        model["geometry"] = _GEOMETRY[clip[1]]
        # SlowFast has networks of one pathway for 8x8 clips, too
        if clip[1] != "8x8" or _OF_PAPER.match(name):
            model |= {"pool1_padding": 0, "pairwise": "embedded_gaussian"}
    return model


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
