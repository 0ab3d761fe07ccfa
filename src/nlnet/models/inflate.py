"""A 2-D ResNet's weights in a video network (section 3.4 of the paper, "initialized from pre-trained ImageNet")."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
from torch import Tensor

from nlnet.errors import UserError, nearest
from nlnet.models.resnet3d import ResNet3d
from nlnet.models.weights import fill, read_file

_PREFIX = re.compile(r"^(?:module\.|model\.|backbone\.|encoder\.)+")
_WRAPPERS = ("state_dict", "model_state", "model")


def inflate_weights(model: ResNet3d, source: str | Path, *, taps: Literal["all", "centre"] = "all") -> str:
    """Start `model` from a 2-D ResNet of its depth; returns a sentence about what is new.

    A 2-D kernel becomes one over t frames, either divided by t at all of them, or whole at the middle one and zero
    elsewhere: on a still clip both give the 2-D network's features, away from the clip's ends. A kernel
    over one frame is taken as it is. The classifier is taken if it has as many classes as the model's; non-local
    blocks stay as built.

    Args:
        model: from `build_model`.
        source: a file with a state dict under torchvision's names (timm's are the same), or the name of torchvision's
            weights such as IMAGENET1K_V1, which are then downloaded unless they have been before.
        taps: "all" or "centre".

    Raises UserError if there is no such file or name, or if it is of another network.
    """
    if taps not in ("all", "centre"):
        raise UserError(f"taps={taps!r} is unknown; {nearest(str(taps), ('all', 'centre'))}")
    path = Path(source)
    images = _names(read_file(path) if path.is_file() else _torchvision(model, str(source)))
    own = model.state_dict()
    state = {key: _inflated(value, own[key], taps) if key in own else value for key, value in images.items()}
    keep = "fc.weight" in state and state["fc.weight"].shape == own["fc.weight"].shape
    if not keep:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    fill(model, state, source)
    return f"weights inflated from {source}" + ("" if keep else "; new: the classifier")


def _names(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """torchvision's names -> ours."""
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return {_renamed(_PREFIX.sub("", key)): value for key, value in content.items() if isinstance(value, Tensor)}


def _renamed(key: str) -> str:
    if key.startswith(("conv1.", "bn1.")):
        return f"stem.{key.replace('conv1.', 'conv.').replace('bn1.', 'bn.')}"
    return re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", key)


def _inflated(weight: Tensor, like: Tensor, taps: str) -> Tensor:
    if weight.ndim != 4 or like.ndim != 5:
        return weight
    frames = like.shape[2]
    if taps == "all":
        return (weight / frames).unsqueeze(2).repeat(1, 1, frames, 1, 1)
    kernel = weight.new_zeros(*weight.shape[:2], frames, *weight.shape[2:])
    kernel[:, :, frames // 2] = weight
    return kernel


def _torchvision(model: ResNet3d, name: str) -> Mapping[str, Any]:
    if "/" in name or name.endswith((".pt", ".pth", ".ckpt", ".bin")):
        raise UserError(f"{name}: there is no such file of 2-D weights")
    from torchvision.models import get_model_weights

    depth = {6: "resnet50", 23: "resnet101"}.get(sum(f"res4.{i}.conv1.weight" in model.state_dict() for i in range(36)))
    if depth is None:
        raise UserError(f"{name}: torchvision has no 2-D network of {model.title}'s shape; give a file")
    weights = {w.name: w for w in get_model_weights(depth)}
    wanted = name.rsplit(".", 1)[-1]
    if wanted not in weights:
        raise UserError(f"{name}: neither a file nor torchvision's weights of {depth}; {nearest(wanted, weights)}")
    try:
        return weights[wanted].get_state_dict(map_location="cpu", weights_only=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"{name}: torchvision's {depth} weights could not be fetched ({error}); copy the file here and give its"
            f" path, or put it into {torch.hub.get_dir()}/checkpoints, or start at random with null"
        ) from error
