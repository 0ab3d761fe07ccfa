"""Which parameters decay, and how fast biases learn."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from nlnet.errors import UserError, nearest

NO_WEIGHT_DECAY = ("norms", "norms_and_biases", "nothing")
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(
    module: nn.Module, no_weight_decay: str = "norms_and_biases", bias_lr_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Two groups for an optimizer: the trainable parameters that decay, and those that do not.

    A group's `weight_decay` of 0 wins over the optimizer's own. With a `bias_lr_factor` other than 1 there is a third
    group, the biases, whose `lr_factor` is for `scale_rates`.

    Args:
        module: the network.
        no_weight_decay: what does not decay: "norms" (scales and shifts of norms, as in the official configurations),
            "norms_and_biases" (all parameters with at most one dimension), or "nothing".
        bias_lr_factor: the rate of the biases, those of norms aside, as a multiple of the optimizer's; 2 in Detectron.

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
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) not in names]},
        {"params": kept, "weight_decay": 0.0},
    ]
    if bias_lr_factor == 1:
        return groups
    named = [p for name, p in module.named_parameters() if name.rpartition(".")[2] == "bias" and p.requires_grad]
    biases = {id(p): p for p in named if id(p) not in of_norms}
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in biases]
    decay = {"weight_decay": 0.0} if no_weight_decay == "norms_and_biases" else {}
    return [*groups, {"params": list(biases.values()), "lr_factor": bias_lr_factor, **decay}]


def scale_rates(optimizer: Optimizer) -> Optimizer:
    """`optimizer`, with the rate of each group that has an `lr_factor` multiplied by it, once."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_factor", 1.0)
    return optimizer
