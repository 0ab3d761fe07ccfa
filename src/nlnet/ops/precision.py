"""The type in which sums are computed."""

from torch import Tensor


def upcast(tensor: Tensor) -> Tensor:
    """In float32 for half precision, in its own type otherwise: float16 ends at 65,504, and bfloat16 keeps 8 bits."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
