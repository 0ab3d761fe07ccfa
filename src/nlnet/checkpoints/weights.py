"""Where a network's weights start: a file of trained ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlnet.checkpoints.files import FOREIGN, read_file
from nlnet.checkpoints.mismatch import and_new, check_fits
from nlnet.checkpoints.pretrained import checkpoint_file
from nlnet.models.summary import title_of

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def load_weights(model: nn.Module, path: str | Path, *, keep_classifier: bool = False) -> str:
    """Start `model` from a checkpoint of this project; returns a sentence about what is new.

    New, that is as built, are: the classifier (unless kept), non-local blocks that the checkpoint does not have, and
    the hidden layer of head="mlp" if it lacks one. A block trained with batch norm goes into one with a frozen norm or
    none: folded into it or into `out`, which changes no output in evaluation mode.

    Args:
        model: from `build_model`, or another whose classifier is `fc`.
        path: a run's folder, whose best checkpoint it is, a checkpoint, a file that `nlnet-convert` wrote, or a saved
            state dict. Only tensors and plain types are read (`weights_only=True`).
        keep_classifier: take the classifier, too.

    Raises UserError if the file cannot be read or is of another network.
    """
    path = checkpoint_file(Path(path).expanduser())
    state = _with_constant_block_norms(state_dict_of(read_file(path, advice=FOREIGN)), model.state_dict())
    if not keep_classifier:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    fill(model, state, path)
    new = ["the classifier"] if not keep_classifier else []
    blocks = {key.rsplit("_nonlocal.", 1)[0] for key in model.state_dict() if "_nonlocal." in key and key not in state}
    return f"weights from {path}" + and_new([*new, *(f"the block after {name}" for name in sorted(blocks))])


def state_dict_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by the network's names: of a checkpoint, whose names start with "net.", or of a bare state dict."""
    state = content.get("state_dict", content)
    items = state.items() if isinstance(state, Mapping) else ()
    tensors = {str(key): value for key, value in items if isinstance(value, Tensor)}
    inside = {key.removeprefix("net."): value for key, value in tensors.items() if key.startswith("net.")}
    return inside or tensors


def fill(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load `state`, which may lack classifier, hidden layer and whole non-local blocks, and must fit otherwise.

    Raises UserError with the first names that do not.
    """
    own = model.state_dict()
    given = {key.rsplit("_nonlocal.", 1)[0] for key in state if "_nonlocal." in key}
    may_lack = {key for key in own if key.startswith(("fc.", "hidden."))}
    may_lack |= {key for key in own if "_nonlocal." in key and key.rsplit("_nonlocal.", 1)[0] not in given}
    check_fits(state, own, str(path), new=may_lack, network=title_of(model), advice=FOREIGN)
    model.load_state_dict(dict(state), strict=False)


def _with_constant_block_norms(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks of `state` with a batch norm, where `own` has none, get it folded: into an affine norm or into `out`."""
    state = dict(state)
    for key in [key for key in state if key.endswith("_nonlocal.norm.running_var")]:
        block = key.removesuffix("norm.running_var")
        parts = [f"{block}norm.{name}" for name in _BATCH_NORM]
        if key in own or f"{block}out.weight" not in own or not state.keys() >= {*parts, f"{block}out.weight"}:
            continue
        weight, bias, mean, var = map(state.pop, parts)
        state.pop(f"{block}norm.num_batches_tracked", None)
        scale = (weight.double() * (var.double() + 1e-5).rsqrt()).to(weight)
        shift = bias - mean * scale
        if f"{block}norm.weight" in own:
            state |= {f"{block}norm.weight": scale, f"{block}norm.bias": shift}
            continue
        out = state[f"{block}out.weight"]
        out_bias = state.get(f"{block}out.bias", torch.zeros_like(scale))
        state[f"{block}out.weight"] = out * scale.view(-1, *[1] * (out.ndim - 1))
        state[f"{block}out.bias"] = out_bias * scale + shift
    return state
