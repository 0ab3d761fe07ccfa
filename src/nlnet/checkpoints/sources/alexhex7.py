"""Single blocks of the most copied PyTorch implementation (AlexHex7/Non-local_pytorch), in 1, 2 or 3 dimensions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from nlnet.checkpoints.sources.source import NORM, Rules, Source, read_torch
from nlnet.errors import UserError


def read(path: Path, config: Path | None = None) -> Source:
    """The state dict of a block, or of a network with one; the network's other keys are left over.

    Blocks pool after phi and g, do not scale the softmax, and keep a bias before their norm. The embedded Gaussian and
    the dot product have the same keys.

    Raises UserError if there is no block, or more than one.
    """
    tensors, _ = read_torch(path, "state_dict", "model")
    prefixes = sorted({key[: -len(end)] for key in tensors for end in ("g.weight", "g.0.weight") if _ends(key, end)})
    if len(prefixes) != 1:
        found = ", ".join(repr(prefix) for prefix in prefixes) or "none"
        raise UserError(
            f"{path}: expected the keys of one block (g.*, W.*), found {found}; save one block's state dict"
        )
    prefix = prefixes[0]
    block = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    unknown = {} if "pairwise" in (model := _arguments(block)) else {"pairwise": "Give pairwise: which class made it."}
    return Source(tensors, _rules(prefix), model, unknown)


def _ends(key: str, end: str) -> bool:
    return key == end or key.endswith(f".{end}")


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
