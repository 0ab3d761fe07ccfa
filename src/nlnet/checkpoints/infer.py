"""Which network a set of weights belongs to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nlnet.errors import UserError
from nlnet.layers import NonLocalBlock
from nlnet.models import NETWORKS, build_model

Shape = tuple[int, ...]


def make(model: Mapping[str, Any]) -> nn.Module:
    """The network of these arguments of `build_model`, or the block of these of `NonLocalBlock` ("channels").

    Raises UserError for arguments that it does not have, or refuses.
    """
    function = NonLocalBlock if "channels" in model else build_model
    try:
        return function(**model)
    except (TypeError, ValueError) as error:
        raise UserError(f"{function.__name__} cannot be called with {dict(model)}: {error}") from error


def shapes(model: Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes in the state dict of `make(model)`, without making its weights."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in make(model).state_dict().items()}


def infer(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """The `name`, `inflation`, `nonlocal_blocks` and `num_classes` of the network with these weights under our names.

    `given` are arguments that are known already; a `name` among them is believed. 2-D kernels fit every network of
    their depth, and are taken for the C2D.

    Raises UserError if no network has kernels of these shapes.
    """
    blocks = [key.removesuffix("_nonlocal.g.weight") for key in tensors if key.endswith("_nonlocal.g.weight")]
    found: dict[str, Any] = {"nonlocal_blocks": blocks or 0}
    if "fc.weight" in tensors:
        found["num_classes"] = tensors["fc.weight"].shape[0]
    return found | (_network(tensors) if "name" not in given else {})


def _network(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    kernels = {k: tuple(v.shape) for k, v in tensors.items() if v.ndim >= 4 and "_nonlocal." not in k}
    depth = "r101" if any(key.startswith("res4.6.") for key in kernels) else "r50"
    reasons = []
    for name in (name for name in NETWORKS if name.endswith(depth)):
        for inflation in ("3x1x1",) if name.startswith("c2d") else ("3x1x1", "3x3x3"):
            model = {"name": name, "inflation": inflation}
            wrong = _mismatch(kernels, {k: s for k, s in shapes(model).items() if len(s) == 5})
            if wrong is None:
                return model if inflation == "3x3x3" else {"name": name}
            reasons.append(f"{name} {inflation}: {wrong}")
    raise UserError(f"none of the networks has these kernels: {'; '.join(reasons)}")


def _mismatch(kernels: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str | None:
    for key in sorted(kernels.keys() | wanted.keys()):
        here, there = kernels.get(key), wanted.get(key)
        if here is None or there is None:
            return f"{key} is only in the {'network' if here is None else 'file'}"
        if here != there and (len(here) == 5 or here != (*there[:2], *there[3:])):
            return f"{key} is {here}, not {there}"
    return None
