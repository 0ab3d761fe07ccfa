"""What an operation's tensors must be, and the message for those that are not."""

from collections.abc import Mapping

from torch import Tensor


def check(operation: str, tensors: Mapping[str, tuple[Tensor, str]]) -> None:
    """Compare each tensor with its pattern, "B N D" for three axes, where a letter is one size in all of them.

    Sizes are at least 1, but for that of B: no clips give no clips. Types are floating and equal, devices equal.
    Raises ValueError that names the operation, the patterns, the tensors and what is wrong with them.
    """
    wrong = _wrong_shape(tensors) or _wrong_kind(tensors)
    if wrong:
        expected = ", ".join(f"{name} ({', '.join(axes.split())})" for name, (_, axes) in tensors.items())
        got = ", ".join(f"{tuple(tensor.shape)}" for tensor, _ in tensors.values())
        raise ValueError(f"{operation}: expected {expected}, got {got}: {wrong}")


def _wrong_shape(tensors: Mapping[str, tuple[Tensor, str]]) -> str:
    sizes: dict[str, tuple[int, str]] = {}
    for name, (tensor, pattern) in tensors.items():
        axes = pattern.split()
        if tensor.ndim != len(axes):
            return f"{name} has {tensor.ndim} dimensions instead of {len(axes)}"
        for axis, size in zip(axes, tensor.shape, strict=True):
            if size == 0 and axis != "B":
                return f"{axis} is 0 in {name}"
            first, owner = sizes.setdefault(axis, (size, name))
            if size != first:
                return f"{axis} is {first} in {owner} and {size} in {name}"
    return ""


def _wrong_kind(tensors: Mapping[str, tuple[Tensor, str]]) -> str:
    first_name, (first, _) = next(iter(tensors.items()))
    for name, (tensor, _) in tensors.items():
        if not tensor.dtype.is_floating_point:
            return f"{name} is {tensor.dtype}, not a floating point type"
        if tensor.dtype != first.dtype:
            return f"{first_name} is {first.dtype} and {name} is {tensor.dtype}"
        if tensor.device != first.device:
            return f"{first_name} is on {first.device} and {name} on {tensor.device}"
    return ""
