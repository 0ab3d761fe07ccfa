"""A 2-D ResNet's weights in a video network (section 3.4 of the paper, "initialized from pre-trained ImageNet")."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from nlnet.checkpoints.image_weights import image_weights
from nlnet.checkpoints.mismatch import and_new
from nlnet.checkpoints.weights import fill
from nlnet.errors import UserError, nearest
from nlnet.models.summary import title_of

_PREFIX = re.compile(r"^(?:module\.|model\.|backbone\.|encoder\.)+")
_WRAPPERS = ("state_dict", "model_state", "model")


def inflate_weights(model: nn.Module, source: str | Path, *, inflation: Literal["all", "center"] = "all") -> str:
    """Start `model` from a 2-D ResNet of its depth; returns a sentence about what is new.

    A 2-D kernel becomes one over t frames, either divided by t at all of them, or whole at the middle one and zero
    elsewhere: on a still clip both give the 2-D network's features, away from the clip's ends. A kernel
    over one frame is taken as it is. The classifier is taken if it has as many classes as the model's; non-local
    blocks stay as built.

    Args:
        model: from `build_model`.
        source: a file with a state dict under torchvision's names (timm's are the same), or the name of torchvision's
            weights such as IMAGENET1K_V1 (see `image_weights`).
        inflation: "all" or "center".

    Raises UserError if there is no such file or name, or if it is of another network.
    """
    if inflation not in ("all", "center"):
        raise UserError(f"inflation={inflation!r} is unknown; {nearest(str(inflation), ('all', 'center'))}")
    own = model.state_dict()
    depth = sum(f"res4.{i}.conv1.weight" in own for i in range(36))
    images = _names(image_weights(source, depth, title_of(model)))
    state = {key: _inflated(value, own[key], inflation) if key in own else value for key, value in images.items()}
    keep = {"fc.weight"} <= state.keys() & own.keys() and state["fc.weight"].shape == own["fc.weight"].shape
    if not keep:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    fill(model, state, source)
    return f"weights inflated from {source}" + and_new([] if keep else ["the classifier"])


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


def _inflated(weight: Tensor, like: Tensor, inflation: str) -> Tensor:
    if weight.ndim != 4 or like.ndim != 5:
        return weight
    frames = like.shape[2]
    if inflation == "all":
        return (weight / frames).unsqueeze(2).repeat(1, 1, frames, 1, 1)
    kernel = weight.new_zeros(*weight.shape[:2], frames, *weight.shape[2:])
    kernel[:, :, frames // 2] = weight
    return kernel
