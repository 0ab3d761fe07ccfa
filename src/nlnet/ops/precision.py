"""The type in which sums are computed."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def upcast(tensor: Tensor) -> Tensor:
    """In float32 for half precision, in its own type otherwise: float16 ends at 65,504, and bfloat16 keeps 8 bits."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def in_autocast_type(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Under `torch.autocast` an operation takes its tensors in that type, like PyTorch's own products.

    Inside, autocast is off: it would take the sums that are kept in float32 down again. bfloat16 on a GPU, which does
    not overflow and has products many times as fast, is left on.
    """

    @wraps(operation)
    def called(*args: Any, **options: Any) -> Tensor:
        tensors = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return operation(*args, **options)
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, dtype, enabled=device != "cpu" and dtype == torch.bfloat16):
            cast = {key: _cast(value, dtype) for key, value in options.items()}
            return operation(*(_cast(value, dtype) for value in args), **cast)

    return called


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """As autocast does it, which leaves float64 alone."""
    taken = isinstance(value, Tensor) and value.dtype.is_floating_point and value.dtype != torch.float64
    return value.to(dtype) if taken else value
