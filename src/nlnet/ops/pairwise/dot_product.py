"""The dot product (equation 4)."""

import torch
from torch import Tensor

from nlnet.ops.pairwise.algorithms import algorithm_for
from nlnet.ops.pairwise.base import Pairwise
from nlnet.ops.precision import in_autocast_type, upcast
from nlnet.ops.shapes import check


@in_autocast_type
def dot_product(theta: Tensor, phi: Tensor, g: Tensor, *, algorithm: str = "auto") -> Tensor:
    """y_i = 1/M sum_j (theta_i . phi_j) g_j: the paper's equation 4 with its normalizer, the number of keys.

    Without a softmax the product associates: theta (phi^T g) costs (N + M) D E multiply-adds and D E numbers of memory,
    (theta phi^T) g costs N M (D + E) and N M. The cheaper one is taken: its map is then smaller than theta and phi.

    >>> import torch
    >>> from nlnet import ops
    >>> ops.dot_product(torch.randn(2, 12, 8), torch.randn(2, 3, 8), torch.randn(2, 3, 5)).shape
    torch.Size([2, 12, 5])

    Shapes: theta (B, N, D), phi (B, M, D), g (B, M, E) -> (B, N, E).
    Raises ValueError if the tensors do not fit this pattern or there is no such algorithm.
    """
    check("dot_product", {"theta": (theta, "B N D"), "phi": (phi, "B M D"), "g": (g, "B M E")})
    algorithm = algorithm_for("dot_product", algorithm, theta, phi.shape[1], theta.shape[2], g.shape[2])
    dtype, m = theta.dtype, phi.shape[1]
    # phi^T g sums over all keys: float16 ends at 65,504.
    theta, phi, g = upcast(theta), upcast(phi), upcast(g)
    if algorithm == "associative":
        return torch.bmm(theta, torch.bmm(phi.transpose(1, 2), g) / m).to(dtype)
    return torch.bmm(_affinity(theta, phi), g).to(dtype)


def _affinity(theta: Tensor, phi: Tensor) -> Tensor:
    return torch.bmm(theta, phi.transpose(1, 2)) / phi.shape[1]


DOT_PRODUCT = Pairwise("dot_product", _affinity, dot_product, algorithms=("materialized", "associative"))
