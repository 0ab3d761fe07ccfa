"""Stages whose activations are computed again in the backward pass, instead of kept (Chen et al. 2016)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nlnet.errors import UserError, nearest

# A network of torchvision counts from the first stage after the stem.
_TORCHVISION = {f"res{k}": f"layer{k - 1}" for k in range(2, 6)}


def recompute_stages(net: nn.Module, stages: Sequence[str]) -> None:
    """Keep only the input of each residual and non-local block of these stages of `net`, in place.

    The backward pass runs each block once more. Gradients are the same, bit for bit where the operations are
    deterministic, and so are the statistics of batch norms, which the second run leaves alone. Parameters keep
    their names.

    Args:
        net: a network with stages of blocks.
        stages: "res2" to "res5", as far as the network has them; `layer1` to `layer4` in networks of torchvision.

    Raises UserError for a stage that is not there.
    """
    for stage in stages:
        for block in _stage(net, stage).children():
            block.forward = partial(_forward, block, block.forward)


def _stage(net: nn.Module, stage: str) -> nn.Sequential:
    found = {
        name.rpartition(".")[2]: module for name, module in net.named_modules() if isinstance(module, nn.Sequential)
    }
    known = [name for name in (*_TORCHVISION, *_TORCHVISION.values()) if name in found]
    name = stage if stage in known else _TORCHVISION.get(stage, "")
    if name not in known:
        raise UserError(f"checkpoint_stages: {type(net).__name__} has no stage {stage}; {nearest(stage, known)}")
    return found[name]


def _forward(block: nn.Module, forward: Any, *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    if torch.compiler.is_compiling():  # which keeps the changes of buffers out of what it computes again
        return checkpoint(forward, *inputs, use_reentrant=False)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _buffers_left_alone(block)


@contextmanager
def _buffers_left_alone(block: nn.Module) -> Iterator[None]:
    """The second run counts its batch into copies of the statistics."""
    kept = [(module, name, value) for module in block.modules() for name, value in module.named_buffers(recurse=False)]
    try:
        for module, name, value in kept:
            setattr(module, name, value.clone())
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
