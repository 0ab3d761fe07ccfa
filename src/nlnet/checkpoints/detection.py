"""Weights to start a detector from: torchvision's files of detectors and of ImageNet networks, and our own runs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.image_weights import image_weights
from nlnet.checkpoints.mismatch import and_new, check_fits
from nlnet.checkpoints.pretrained import checkpoint_file
from nlnet.errors import UserError
from nlnet.models.summary import title_of

_BLOCKS = (".nonlocal_before.", ".nonlocal_after.", ".global_context.")
_CLASSIFIERS = ("box_predictor.", "mask_predictor.mask_fcn_logits.")
_BODY = "backbone.body."
_OF_DETECTOR = "give torchvision's state dict of the same network and classes, or the checkpoint of such a run"


def load_detector(net: GeneralizedRCNN, path: str | Path, *, keep_classifier: bool = True) -> str:
    """Fill `net` from a detector's state dict, torchvision's or of a run here; returns what to say about it.

    Strict but for the blocks, which stay new where the file has none of them. With `keep_classifier=False` the layers
    that depend on the classes stay new as well.

    Raises UserError if the file cannot be read, or if anything else of it does not fit.
    """
    path = checkpoint_file(Path(path).expanduser())
    state = _tensors(read_file(path, advice=_OF_DETECTOR), path)
    wanted = net.state_dict()
    blocks = [key for key in wanted if any(part in key for part in _BLOCKS)]
    new = [] if any(key in state for key in blocks) else blocks
    if not keep_classifier:
        new = [key for key in wanted if any(part in key for part in _CLASSIFIERS)] + new
    skipped = set(new)
    _fill(net, {key: value for key, value in state.items() if key not in skipped}, skipped, path)
    return f"weights of {path}" + and_new(_modules(new))


def load_backbone(net: GeneralizedRCNN, source: str) -> str:
    """Fill the backbone from an ImageNet ResNet of torchvision's; returns what to say about it.

    Args:
        source: a file of its state dict, or the name of torchvision's weights such as IMAGENET1K_V1, which are
            downloaded.

    Raises UserError if there are none, or if they are of another network.
    """
    wanted = net.state_dict()
    depth = sum(f"{_BODY}layer3.{i}.conv1.weight" in wanted for i in range(36))
    state = _tensors(image_weights(source, depth, title_of(net)), source)
    state = {f"{_BODY}{key}": value for key, value in state.items() if not key.startswith("fc.")}
    blocks = {key for key in wanted if not key.startswith(_BODY) or any(part in key for part in _BLOCKS)}
    _fill(net, state, blocks, source)
    return f"backbone from {source}"


def _fill(net: GeneralizedRCNN, state: Mapping[str, Tensor], new: set[str], source: str | Path) -> None:
    """Load `state`, which must have every key but `new` and no other, `num_batches_tracked` aside."""
    wanted = net.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not _is_counter(key)}
    may_lack = {key for key in wanted if key in new or _is_counter(key)}
    check_fits(state, wanted, str(source), new=may_lack, network=title_of(net), advice=_OF_DETECTOR)
    net.load_state_dict(state, strict=False)


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _tensors(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The weights in a file by torchvision's names of today."""
    state = content.get("state_dict", content.get("model", content))
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a state dict; {_OF_DETECTOR}")
    # Before torchvision 0.13 the pyramid and some heads had names with one part less.
    return {_modern(str(key).removeprefix("net.")): value for key, value in state.items()}


def _modern(key: str) -> str:
    parts = key.split(".")
    if key.startswith(("backbone.fpn.inner_blocks.", "backbone.fpn.layer_blocks.")) and len(parts) == 5:
        return ".".join([*parts[:4], "0", parts[4]])
    if key.startswith("rpn.head.conv.") and len(parts) == 4:
        return ".".join([*parts[:3], "0", "0", parts[3]])
    if match := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d+)\.(\w+)", key):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    return key


def _modules(keys: list[str]) -> list[str]:
    """The blocks and predictors that hold these keys, each once, in order."""
    names = []
    for key in keys:
        block = next((part for part in _BLOCKS if part in key), None)
        names.append(key.partition(block)[0] + block.rstrip(".") if block else key.rsplit(".", 2)[0])
    return list(dict.fromkeys(names))
