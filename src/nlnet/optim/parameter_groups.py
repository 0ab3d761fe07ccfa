"""Which parameters decay."""

from typing import Any

from torch import nn

from nlnet.errors import UserError, nearest

NO_WEIGHT_DECAY = ("norms", "norms_and_biases", "nothing")
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(module: nn.Module, no_weight_decay: str = "norms_and_biases") -> list[dict[str, Any]]:
    """Two groups for an optimizer: the trainable parameters that decay, and those that do not.

    A group's `weight_decay` of 0 wins over the optimizer's own.

    Args:
        module: the network.
        no_weight_decay: what does not decay: "norms" (scales and shifts of norms, as in the official configurations),
            "norms_and_biases" (all parameters with at most one dimension), or "nothing".

    Raises UserError for another word.
    """
    if no_weight_decay not in NO_WEIGHT_DECAY:
        raise UserError(
            f"optim.no_weight_decay={no_weight_decay} is unknown; {nearest(no_weight_decay, NO_WEIGHT_DECAY)}"
        )
    of_norms = {id(p) for layer in module.modules() if isinstance(layer, _NORMS) for p in layer.parameters(False)}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kept = {
        "norms": [p for p in parameters if id(p) in of_norms],
        "norms_and_biases": [p for p in parameters if p.ndim <= 1],
        "nothing": [],
    }[no_weight_decay]
    names = {id(p) for p in kept}
    return [
        {"params": [p for p in parameters if id(p) not in names]},
        {"params": kept, "weight_decay": 0.0},
    ]
