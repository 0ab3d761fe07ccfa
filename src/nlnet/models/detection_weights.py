"""Weights to start a detector from: torchvision's files of detectors and of ImageNet networks, and our own runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from nlnet.errors import UserError

_BLOCKS = (".nonlocal_before.", ".nonlocal_after.", ".global_context.")
_CLASSIFIERS = ("box_predictor.", "mask_predictor.mask_fcn_logits.")
_BODY = "backbone.body."


def load_detector(net: GeneralizedRCNN, path: str | Path, *, keep_classifier: bool = True) -> str:
    """Fill `net` from a detector's state dict, torchvision's or of a run here; returns what to say about it.

    Strict but for the blocks, which stay new where the file has none of them. With `keep_classifier=False` the layers
    that depend on the classes stay new as well.

    Raises UserError if the file cannot be read, or if anything else of it does not fit.
    """
    state = _state(path)
    wanted = net.state_dict()
    blocks = [key for key in wanted if any(part in key for part in _BLOCKS)]
    new = [] if any(key in state for key in blocks) else blocks
    if not keep_classifier:
        new += [key for key in wanted if any(part in key for part in _CLASSIFIERS)]
    skipped = set(new)
    _fill(net, {key: value for key, value in state.items() if key not in skipped}, skipped, path)
    return f"weights of {path}{'; new: ' + ', '.join(_modules(new)) if new else ''}"


def load_backbone(net: GeneralizedRCNN, source: str) -> str:
    """Fill the backbone from an ImageNet ResNet of torchvision's; returns what to say about it.

    Args:
        source: a file of its state dict, or the name of torchvision's weights such as IMAGENET1K_V1, which are
            downloaded.

    Raises UserError if there are none, or if they are of another network.
    """
    state = _state(source) if Path(source).suffix or Path(source).exists() else _named(net, source)
    state = {f"{_BODY}{key}": value for key, value in state.items() if not key.startswith("fc.")}
    wanted = net.state_dict()
    blocks = {key for key in wanted if not key.startswith(_BODY) or any(part in key for part in _BLOCKS)}
    _fill(net, state, blocks, source)
    return f"backbone from {source}"


def _fill(net: GeneralizedRCNN, state: Mapping[str, Tensor], new: set[str], source: str | Path) -> None:
    """Load `state`, which must have every key but `new` and no other, `num_batches_tracked` aside."""
    wanted = net.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not key.endswith("num_batches_tracked")}
    problems = (
        [f"{key} is missing" for key in wanted.keys() - state.keys() - new if not key.endswith("num_batches_tracked")]
        + [f"{key} is not in this network" for key in state.keys() - wanted.keys()]
        + [
            f"{key} is {tuple(value.shape)}, here {tuple(wanted[key].shape)}"
            for key, value in state.items()
            if key in wanted and value.shape != wanted[key].shape
        ]
    )
    if problems:
        shown = "; ".join(sorted(problems)[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise UserError(f"{source}: not the weights of this {getattr(net, 'title', 'detector')}: {shown}")
    net.load_state_dict(state, strict=False)


def _state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by torchvision's names. Nothing in it is run."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a file of weights that can be read: {first}") from error
    content = content.get("state_dict", content.get("model", content)) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: not a state dict")
    state = {key.removeprefix("net."): value for key, value in content.items()}
    # Before torchvision 0.13 the pyramid and some heads had names with one part less.
    return {_modern(key): value for key, value in state.items()}


def _modern(key: str) -> str:
    parts = key.split(".")
    if key.startswith(("backbone.fpn.inner_blocks.", "backbone.fpn.layer_blocks.")) and len(parts) == 5:
        return ".".join([*parts[:4], "0", parts[4]])
    if key.startswith("rpn.head.conv.") and len(parts) == 4:
        return ".".join([*parts[:3], "0", "0", parts[3]])
    if key.startswith("roi_heads.mask_head.mask_fcn"):
        return f"roi_heads.mask_head.{int(parts[2].removeprefix('mask_fcn')) - 1}.0.{parts[3]}"
    return key


def _named(net: GeneralizedRCNN, name: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    title = str(getattr(net, "title", ""))
    known = {"R50-FPN": "resnet50", "R101-FPN": "resnet101"}
    model = next((model for suffix, model in known.items() if title.endswith(suffix)), None)
    weights = get_model_weights(model).__members__ if model else {}
    if name not in weights:
        raise UserError(
            f"init.images={name}: torchvision has {', '.join(weights) or 'no ImageNet weights'} for {title}; give one"
            " of these, or a file of a state dict"
        )
    return weights[name].get_state_dict(check_hash=True)  # type: ignore[no-any-return]


def _modules(keys: list[str]) -> list[str]:
    """The blocks and predictors that hold these keys, each once, in order."""
    names = []
    for key in keys:
        block = next((part for part in _BLOCKS if part in key), None)
        names.append(key.partition(block)[0] + block.rstrip(".") if block else key.rsplit(".", 2)[0])
    return list(dict.fromkeys(names))
