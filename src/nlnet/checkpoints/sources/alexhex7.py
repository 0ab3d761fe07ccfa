"""Single blocks of the most copied PyTorch implementation (AlexHex7/Non-local_pytorch), in 1, 2 or 3 dimensions."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nlnet.checkpoints.sources.source import NORM, Rules, Source, read_torch
from nlnet.errors import UserError


def read(path: Path, block: str | None = None) -> Source:
    """The state dict of a block, or of a network with one; the network's other keys are left over.

    Blocks pool after phi and g, do not scale the softmax, and keep a bias before their norm. The embedded Gaussian and
    the dot product have the same keys.

    Args:
        path: the file.
        block: the block's name where the network has several, as its keys begin; the rest of the network is left out.

    Raises UserError if there is no block, none of that name, or more than one and no name.
    """
    tensors, _ = read_torch(path, "state_dict", "model")
    found = sorted({prefix for key in tensors if (prefix := _prefix(key, tensors)) is not None})
    if block is not None:
        wanted = f"{block.rstrip('.')}." if block else ""
        if wanted not in found:
            raise UserError(f"{path}: block={block}: no block (g.*, W.*) of this name; found {_names(found)}")
        found = [wanted]
        tensors = {key: value for key, value in tensors.items() if key.startswith(wanted)}
    if not found:
        raise UserError(f"{path}: expected the keys of a block (g.*, W.*), found none")
    if len(found) > 1:
        raise UserError(f"{path}: expected the keys of one block, found {_names(found)}; say which one with block=NAME")
    prefix = found[0]
    weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    unknown = (
        {} if "pairwise" in (model := _arguments(weights)) else {"pairwise": "Give pairwise: which class made it."}
    )
    return Source(tensors, _rules(prefix), model, unknown)


def _prefix(key: str, keys: Collection[str]) -> str | None:
    """What is before the names of a block's weights, if `key` is its g: the block has its W beside it."""
    for end in ("g.weight", "g.0.weight"):
        prefix = key.removesuffix(end)
        if prefix != key and (not prefix or prefix.endswith(".")):
            return prefix if f"{prefix}W.weight" in keys or f"{prefix}W.0.weight" in keys else None
    return None


def _names(prefixes: Sequence[str]) -> str:
    return ", ".join(repr(prefix.rstrip(".")) for prefix in prefixes) or "none"


def _arguments(block: dict[str, Tensor]) -> dict[str, Any]:
    g = block["g.0.weight"] if "g.0.weight" in block else block["g.weight"]
    batch_norm = "W.1.running_mean" in block
    model: dict[str, Any] = {
        "channels": g.shape[1],
        "dims": g.ndim - 2,
        "inner_channels": g.shape[0],
        "subsample": "g.0.weight" in block,
        "subsample_order": "after",
        "scale": False,
        "norm": "batch" if batch_norm else "none",
        "out_bias": True,
    }
    if "concat_project.0.weight" in block:
        model["pairwise"] = "concatenation"
    elif not _has(block, "theta."):
        model["pairwise"] = "gaussian"
    return model


def _has(keys: Iterable[str], start: str) -> bool:
    return any(key.startswith(start) for key in keys)


def _rules(prefix: str) -> Rules:
    escaped = prefix.replace(".", r"\.")
    return [
        (rf"{escaped}(theta|phi|g)\.(?:0\.)?(weight|bias)", r"\1.\2"),
        (rf"{escaped}W\.(?:0\.)?(weight|bias)", r"out.\1"),
        (rf"{escaped}W\.1\.{NORM}", r"norm.\1"),
        (rf"{escaped}concat_project\.0\.weight", "concat_project.weight"),
    ]
