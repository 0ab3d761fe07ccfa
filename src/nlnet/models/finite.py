"""Numbers that are none: found in the outputs and in the weights of a network."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var")


@contextmanager
def watched(modules: Iterable[nn.Module], note: Callable[[Tensor], None]) -> Iterator[None]:
    """Within it `note` is called with every floating point output of `modules` that is not a number somewhere, or is
    infinite. Minus infinity is a score: that of what was left out."""

    def look(module: nn.Module, arguments: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if tensor.is_floating_point() and not is_number(tensor).all():
                note(tensor)

    hooks = [module.register_forward_hook(look) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def is_number(values: Tensor) -> Tensor:
    """Elementwise: neither NaN nor plus infinity."""
    return values < torch.inf


def not_finite_weight(net: nn.Module) -> str | None:
    """The name of the first parameter, or statistic of a norm, that holds NaN or an infinity; None if there is none.
    Of a sharded network: of the part that this rank has.

    Other buffers may hold what they like: masks are made of infinities.
    """
    named = [(name, local(parameter.detach())) for name, parameter in net.named_parameters()]
    named += [(name, buffer) for name, buffer in net.named_buffers() if name.endswith(_STATISTICS)]
    if not named or torch.stack([tensor.isfinite().all() for _, tensor in named]).all():
        return None
    return next(name for name, tensor in named if not tensor.isfinite().all())


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this rank has; a plain tensor as it is."""
    sharded: Any = tensor
    return sharded.to_local() if hasattr(tensor, "to_local") else tensor  # its class takes seconds to import


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
