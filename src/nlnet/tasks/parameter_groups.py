"""Which parameters decay."""

from typing import Any

from torch import nn


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups for an optimiser: weights, which decay, and norms and biases (at most 1-D), which do not.

    The official configurations keep weight decay off batch normalisation; biases follow here, too. A group's
    `weight_decay` of 0 wins over the optimiser's own.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
