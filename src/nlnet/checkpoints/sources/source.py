"""What every reader of a foreign checkpoint hands over, and the pieces that readers share."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nlnet.checkpoints.files import read_file
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
    apart: Rules = ()
    """(pattern of a whole source key, why the network has nothing for it), before `rules`."""
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
    beside = read_file(path)
    state = next((beside[name] for name in nested if isinstance(beside.get(name), Mapping)), beside)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: no state dict in it; its keys are {', '.join(map(str, list(beside)[:8])) or 'none'}")
    return {key.removeprefix("module."): value for key, value in tensors.items()}, beside


def bottleneck_rules(
    block: str,
    stage: int,
    *,
    conv: str = r"conv(\d)",
    norm: str = r"bn(\d)",
    shortcut: str = r"downsample\.0",
    shortcut_norm: str = r"downsample\.1",
) -> list[tuple[str, str]]:
    """The rules of a stage's residual blocks whose convolutions and norms are numbered like ours.

    Args:
        block: the pattern of a residual block, with its index as the only group.
        stage: our stage, 2 to 5.
        conv, norm: the patterns of a convolution and a norm in a block, each with its number as the only group.
        shortcut, shortcut_norm: the patterns of the first block's projection and its norm.
    """
    ours = rf"res{stage}.\1"
    return [
        (rf"{block}\.{conv}\.weight", rf"{ours}.conv\2.weight"),
        (rf"{block}\.{norm}\.{NORM}", rf"{ours}.bn\2.\3"),
        (rf"{block}\.{shortcut}\.weight", rf"{ours}.downsample.0.weight"),
        (rf"{block}\.{shortcut_norm}\.{NORM}", rf"{ours}.downsample.1.\2"),
    ]


def leaves(value: Any) -> list[Any]:
    """The values in lists and tuples within one another, in order, without None."""
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [] if value is None else [value]


def by_stage(argument: str, values: Any, usual: Sequence[int], where: str) -> dict[str, dict[str, int]]:
    """The argument of `build_model` that holds what is not as usual in res2 to res5, by stage; nothing if all is.

    Raises UserError unless there is one whole number for each of them.
    """
    found = leaves(values)
    if len(found) != len(usual) or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in found):
        raise UserError(f"{where}: {argument}={values}: expected a whole number for each of {len(usual)} stages")
    changed = {f"res{i + 2}": n for i, n in enumerate(found) if n != usual[i]}
    return {argument: changed} if changed else {}
