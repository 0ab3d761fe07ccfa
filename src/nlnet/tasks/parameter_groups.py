"""Which parameters decay."""

from typing import Any

from torch import nn

from nlnet.errors import UserError, nearest

UNDECAYED = ("norms", "norms_and_biases", "nothing")
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(module: nn.Module, undecayed: str = "norms_and_biases") -> list[dict[str, Any]]:
    """Two groups for an optimiser: the trainable parameters that decay, and those that do not.

    A group's `weight_decay` of 0 wins over the optimiser's own.

    Args:
        module: the network.
        undecayed: what does not decay: "norms" (scales and shifts of norms, as in the official configurations),
            "norms_and_biases" (all parameters with at most one dimension), or "nothing".

    Raises UserError for another word.
    """
    if undecayed not in UNDECAYED:
        raise UserError(f"optim.undecayed={undecayed} is unknown; {nearest(undecayed, UNDECAYED)}")
    of_norms = {id(p) for layer in module.modules() if isinstance(layer, _NORMS) for p in layer.parameters(False)}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kept = {
        "norms": [p for p in parameters if id(p) in of_norms],
        "norms_and_biases": [p for p in parameters if p.ndim <= 1],
        "nothing": [],
    }[undecayed]
    names = {id(p) for p in kept}
    return [
        {"params": [p for p in parameters if id(p) not in names]},
        {"params": kept, "weight_decay": 0.0},
    ]
