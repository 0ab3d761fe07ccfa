"""What every reader of a foreign checkpoint hands over, and the pieces that readers share."""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlnet.errors import UserError

Rules = Sequence[tuple[str, str]]

NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
"""What a batch norm has in PyTorch's state dicts, as a group of a pattern."""


@dataclass(frozen=True)
class Source:
    """A foreign checkpoint as read."""

    tensors: Mapping[str, Tensor]
    """Its weights by its own names."""
    rules: Rules
    """(pattern of a whole source key, our key with the pattern's groups)."""
    model: Mapping[str, Any]
    """The arguments of `build_model` that the source's program fixes or the file states."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """The arguments that the file cannot tell and nobody should guess -> where a person finds them."""
    training: Sequence[str] = ()
    """Patterns of keys that are training state."""
    copies: Rules = ()
    """Like `rules`, for keys that repeat another key's values: the source key of the original."""
    folded_norms: bool = False
    """Whether its norms are s x + b, without statistics."""


def rename(key: str, rules: Rules) -> str | None:
    """Our name of a source's key, None where no rule knows it."""
    for pattern, target in rules:
        if match := re.fullmatch(pattern, key):
            return match.expand(target)
    return None


def read_torch(path: Path, *nested: str) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of a PyTorch file and all that is beside them; nothing in it is run (`weights_only=True`).

    Args:
        path: a state dict, or a dictionary that has it under one of the names `nested`.

    Raises UserError if the file cannot be read so, or holds no state dict.
    """
    content = load(path)
    beside = content if isinstance(content, Mapping) else {}
    state = next((beside[name] for name in nested if isinstance(beside.get(name), Mapping)), beside)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: no state dict in it ({_shown(content)})")
    return {key.removeprefix("module."): value for key, value in tensors.items()}, beside


def load(path: Path) -> Any:
    """A PyTorch file's content on the CPU. Raises UserError if it is not one, or asks for more than tensors."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a PyTorch file of tensors and plain values alone, and nothing else in it is run: {first}"
            " If you trust it, load it yourself and save its state dict by torch.save"
        ) from error


def _shown(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"its keys: {', '.join(map(str, list(content)[:8]))}"
    return f"it is a {type(content).__name__}"
