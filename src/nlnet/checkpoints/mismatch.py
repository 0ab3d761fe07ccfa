"""How the weights of a file fit a network: what does not fit, as an error, and what stays new, as a sentence."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nlnet import limits
from nlnet.errors import UserError

OF_RUN = "give the model.* settings of its run, which are in the config.yaml of the run's folder"
_RESTORE = "the file is damaged, or its settings were changed; copy it again, or convert or train anew"
_NAMED = "the network it names"
_SHOWN, _SHOWN_NEW = 4, 6


def check_fits(
    state: Mapping[str, Any],
    own: Mapping[str, Tensor],
    where: str,
    *,
    new: Collection[str] = (),
    network: str = "this network",
    advice: str = OF_RUN,
) -> None:
    """Raises UserError unless `state` has every key of `own` but those in `new`, no other key, and the same shapes.

    The message names the first keys that do not fit, both shapes where these differ, and how many more there are.

    Args:
        state: the weights of a file.
        own: the network's state dict.
        where: the file, as the message begins.
        new: keys that `state` may lack.
        network: what the message calls the network.
        advice: how the message ends: what to do.
    """
    problems = [f"{key} is missing" for key in own if key not in state and key not in new]
    problems += [f"{key} is not in {network}" for key in state if key not in own]
    problems += [
        f"{key} is {_shape(value)}, in {network} {_shape(own[key])}"
        for key, value in state.items()
        if key in own and _shape(value) != _shape(own[key])
    ]
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(f"{where}: its weights are not those of {network}: {shown}{more}; {advice}")


def check_outline(
    make: Callable[[], nn.Module],
    state: Mapping[str, Any],
    where: str,
    missing: Collection[str] = (),
    *,
    network: str = _NAMED,
    advice: str = _RESTORE,
) -> None:
    """Raises UserError unless `state` has the weights of the network of `make()`, and before that takes any memory.

    The sizes of a network are the file's word, as its weights are. `network` and `advice` are those of
    `check_fits`.
    """
    try:
        with torch.device("meta"):
            own = make().state_dict()
    except (RuntimeError, OverflowError) as error:
        raise UserError(f"{where}: the network it names cannot be built: {error}") from None
    check_fits(state, own, where, new=missing, network=network, advice=advice)
    limits.UNPACKED.check(sum(own[key].nbytes for key in own if key not in state), where)


def filled(net: nn.Module, state: Mapping[str, Any], where: str, missing: Collection[str] = ()) -> nn.Module:
    """`net` with the weights of the file that names it, in evaluation mode; `missing` ones stay as built.

    Raises UserError if the weights are not those of `net`.
    """
    check_fits(state, net.state_dict(), where, new=missing, network=_NAMED, advice=_RESTORE)
    net.load_state_dict(dict(state), strict=False)
    return net.eval()


def and_new(parts: Sequence[str]) -> str:
    """The end of a sentence about weights that were read: the parts of the network that stay as built."""
    if not parts:
        return ""
    left = len(parts) - _SHOWN_NEW
    shown = [*parts[:_SHOWN_NEW], f"{left} more"] if left > 1 else parts
    return f"; new: {', '.join(shown)}"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}, not a tensor"
