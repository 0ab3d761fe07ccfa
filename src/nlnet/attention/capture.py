"""What comes into a network's non-local blocks while it looks at a clip."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nlnet.errors import UserError, nearest
from nlnet.layers import NonLocalBlock


def find_blocks(net: nn.Module, names: Sequence[str] | None = None) -> dict[str, NonLocalBlock]:
    """The non-local blocks of a network by their names in it, in its order; those of `names` alone where given.

    Raises UserError where it has none, or none of such a name.
    """
    found = {name: module for name, module in net.named_modules() if isinstance(module, NonLocalBlock)}
    if not found:
        raise UserError(
            f"{type(net).__name__} has no non-local block, so there is nothing to show; insert some with"
            " nlnet.insert_nonlocal, or look at a network that was trained with model.nonlocal_blocks above 0"
        )
    for name in names or ():
        if name not in found:
            raise UserError(f"blocks={name}: the network has no such non-local block; {nearest(name, found)}")
    return {name: found[name] for name in names} if names else found


@torch.no_grad()
def look(net: nn.Module, inputs: Tensor, blocks: Mapping[str, NonLocalBlock]) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of a network in evaluation mode for one clip, and each block's input (1, C, [T, H,] W).

    Raises UserError for a block that the network does not run, or runs more than once.
    """
    inputs_of: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        if name in inputs_of:
            raise UserError(f"the block {name} runs more than once for a clip; its attention is no single map")
        inputs_of[name] = x.detach()

    hooks = [
        block.register_forward_pre_hook(lambda _, given, name=name: keep(name, given[0]))  # type: ignore[misc]
        for name, block in blocks.items()
    ]
    try:
        with evaluating(net):
            output = net(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name in blocks:
        if name not in inputs_of:
            raise UserError(f"the block {name} does not run for such a clip; leave it out of blocks=")
    return output, inputs_of


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards whatever each module was in before."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
