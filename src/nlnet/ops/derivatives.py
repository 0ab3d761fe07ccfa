"""All derivatives of an operation that computes its value and its first derivative in a way of its own.

PyTorch differentiates what is made of its own operations, as often as one likes and in both directions. A fast
operation is not; but it has a plain form, which is. So it is enough to have a fast value and a fast gradient, and to
take all other derivatives from the plain form: the second and higher ones, and those in forward mode. These store its
map.

The plain form is differentiated by `torch.func.vjp`, which sees the operation's tensors as independent of each other.
`torch.autograd.grad` on the saved tensors would also see how they hang together in the caller's graph: a gradient that
depends on the input, as behind anything non-linear, would then be counted twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Operation:
    """y of some tensors, by its value, its first derivative and its plain form. Called with the tensors it gives y.

    Args:
        value: (*tensors) -> (y, *saved), saved being what the gradient needs beside the tensors.
        gradient: (dy, *tensors, *saved) -> one for each of the tensors; with `needs_output` (dy, *tensors, y, *saved).
        plain: (*tensors) -> y, made of PyTorch's own operations.
        needs_output: whether the gradient needs y.

    `value` and `gradient` run without autograd; under `torch.vmap` their custom operators need a rule (`fold` helps).
    """

    value: Callable[..., Tensors]
    gradient: Callable[..., Tensors]
    plain: Callable[..., Tensor]
    needs_output: bool = False

    def __call__(self, *tensors: Tensor) -> Tensor:
        if in_forward_mode() or (torch.compiler.is_compiling() and transformed()):
            return self.plain(*tensors)
        return _Value.apply(self, *tensors)[0]

    def plain_gradient(self, grad: Tensor, *tensors: Tensor) -> Tensors:
        """What `gradient` computes, by the plain form."""
        return _pull(self.plain, tensors, grad)


def in_forward_mode() -> bool:
    """Whether derivatives in forward mode may be asked for: inside of `dual_level`, `torch.func.jvp` or `jacfwd`."""
    return forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether this runs inside of a transform of `torch.func`."""
    return torch._C._are_functorch_transforms_active()


def fold(tensors: Sequence[Tensor], in_dims: Sequence[int | None], size: int) -> list[Tensor]:
    """For the rule of an operator for `torch.vmap`: its axis, of length `size`, becomes a part of the axis of clips."""
    moved = [
        t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0) for t, dim in zip(tensors, in_dims, strict=False)
    ]
    return [t.flatten(0, 1) for t in moved]


def unfold(tensors: Sequence[Tensor], size: int) -> Tensors:
    """The inverse of `fold` for the results."""
    return tuple(t.view(size, len(t) // size, *t.shape[1:]) for t in tensors)


def _pull(function: Callable[..., Any], tensors: Sequence[Tensor], grads: Any) -> Tensors:
    """The gradients of the tensors for those of what `function` makes of them."""
    return torch.func.vjp(function, *tensors)[1](grads)


class _Value(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(operation: Operation, *tensors: Tensor) -> Tensors:
        return operation.value(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.operation, *tensors = inputs
        ctx.count = len(tensors)
        ctx.mark_non_differentiable(*output[1:])
        # What is saved has no gradient; tables of zeros for it would be as large as it is.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(output if ctx.operation.needs_output else output[1:]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * (1 + ctx.count)
        if in_forward_mode():
            return None, *ctx.operation.plain_gradient(grad, *ctx.saved_tensors[: ctx.count])
        return None, *_Gradient.apply(ctx.operation, ctx.count, grad, *ctx.saved_tensors)


class _Gradient(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(operation: Operation, count: int, grad: Tensor, *tensors: Tensor) -> Tensors:
        return operation.gradient(grad, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.operation, count, grad, *tensors = inputs
        ctx.others = len(tensors) - count
        # What comes after the tensors is a function of them, and not a variable of its own.
        ctx.save_for_backward(grad, *tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_pull(ctx.operation.plain_gradient, ctx.saved_tensors, grads), *(None,) * ctx.others
