"""Global context: the non-local operation with one answer for all positions."""

from torch import Tensor

from nlnet.ops.shapes import check


def global_context(a: Tensor, g: Tensor) -> Tensor:
    """y = sum_j softmax_j(a_j) g_j: the embedded Gaussian whose affinity does not depend on the position that asks.

    Time and memory O(M E): what is the same for every query is computed once.

    >>> import torch
    >>> from nlnet import ops
    >>> ops.global_context(torch.zeros(1, 4), torch.arange(4.0).view(1, 4, 1))
    tensor([[1.5000]])

    Source: GCNet (Cao et al., ICCV workshops 2019), the simplified non-local block.
    Shapes: a (B, M), g (B, M, E) -> (B, E).
    Raises ValueError if the shapes do not fit this pattern.
    """
    check("global_context", {"a": (a, "B M"), "g": (g, "B M E")})
    # g^T first: for a map that lies channel by channel this is a product with a contiguous matrix
    return (g.transpose(1, 2) @ a.softmax(dim=1)[..., None])[..., 0]
