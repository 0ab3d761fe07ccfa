"""The pairwise functions of the non-local operation y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j) (section 3.2 of the paper).

Shapes: B clips, N queries (positions i), M keys (positions j), D channels of theta and phi, E channels of g.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def embedded_gaussian(theta: Tensor, phi: Tensor, g: Tensor, *, scale: float = 1.0) -> Tensor:
    """y_i = sum_j softmax_j(scale * theta_i . phi_j) g_j: the paper's equation 3, where scale is 1.

    Fused attention: the (N, M) map is not stored where D equals E. The scale is applied to theta before the product,
    so half-precision products stay small.

    Shapes: theta (B, N, D), phi (B, M, D), g (B, M, E) -> (B, N, E).
    Raises ValueError if the shapes do not fit this pattern.
    """
    _check("embedded_gaussian", theta, phi, g)
    # The fused kernels want the channels of a position side by side; anything else silently takes the (N, M) path.
    query, key, value = (theta * scale).contiguous(), phi.contiguous(), g.contiguous()
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)


def dot_product(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """y_i = 1/M sum_j (theta_i . phi_j) g_j: the paper's equation 4 with its normaliser, the number of keys.

    Without a softmax the product associates: theta (phi^T g) costs (N + M) D E multiply-adds and never forms the
    (N, M) map, (theta phi^T) g costs N M (D + E). The cheaper one is taken; both are exact.

    Shapes: theta (B, N, D), phi (B, M, D), g (B, M, E) -> (B, N, E).
    Raises ValueError if the shapes do not fit this pattern.
    """
    _check("dot_product", theta, phi, g)
    (n, d), (m, e) = theta.shape[1:], g.shape[1:]
    if (n + m) * d * e <= n * m * (d + e):
        return theta @ (phi.transpose(1, 2) @ g / m)
    return (theta @ phi.transpose(1, 2) / m) @ g


def affinity(pairwise: str, theta: Tensor, phi: Tensor, *, scale: float = 1.0) -> Tensor:
    """The normalised map f(x_i, x_j) / C(x) itself: what the other functions multiply with g without storing it.

    Shapes: theta (B, N, D), phi (B, M, D) -> (B, N, M).
    Raises ValueError if the shapes do not fit this pattern, `pairwise` is not a name in `PAIRWISE`, or a scale is
    given to a function that has none.
    """
    if pairwise not in PAIRWISE:
        raise ValueError(f"affinity: unknown pairwise function {pairwise!r}, expected one of {', '.join(PAIRWISE)}")
    _check(f"affinity {pairwise}", theta, phi)
    if pairwise == "embedded_gaussian":
        return ((theta * scale) @ phi.transpose(1, 2)).softmax(dim=-1)
    if scale != 1.0:
        raise ValueError(f"affinity {pairwise}: has no scale, got scale={scale}")
    return theta @ phi.transpose(1, 2) / phi.shape[1]


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "embedded_gaussian": embedded_gaussian,
    "dot_product": dot_product,
}
"""The operation behind each name that a configuration may use."""


def _check(operation: str, theta: Tensor, phi: Tensor, g: Tensor | None = None) -> None:
    """Raises ValueError unless theta (B, N, D), phi (B, M, D) and g (B, M, E) agree and have at least one key."""
    tensors = {"theta (B, N, D)": theta, "phi (B, M, D)": phi} | ({} if g is None else {"g (B, M, E)": g})
    fits = all(t.ndim == 3 for t in tensors.values()) and theta.shape[::2] == phi.shape[::2] and phi.shape[1] > 0
    if not fits or (g is not None and g.shape[:2] != phi.shape[:2]):
        got = ", ".join(str(tuple(t.shape)) for t in tensors.values())
        raise ValueError(f"{operation}: expected {', '.join(tensors)} with at least one key, got {got}")
