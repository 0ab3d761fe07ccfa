"""The Gaussian and the embedded Gaussian (equations 2 and 3): a softmax over the keys."""

import torch
from torch import Tensor

from nlnet.ops import fused, tiled
from nlnet.ops.pairwise.algorithms import algorithm_for
from nlnet.ops.pairwise.base import Pairwise
from nlnet.ops.precision import in_autocast_type
from nlnet.ops.shapes import check

ALGORITHMS = ("materialized", "tiled", "fused", "triton")


@in_autocast_type
def gaussian(x: Tensor, keys: Tensor, g: Tensor, *, algorithm: str = "auto") -> Tensor:
    """y_i = sum_j softmax_j(x_i . k_j) g_j: the paper's equation 2, where the keys k are x itself or x sub-sampled.

    Time O(N M (D + E)), memory O(N E + M (D + E)).

    >>> import torch
    >>> from nlnet import ops
    >>> x = torch.randn(2, 12, 8)
    >>> ops.gaussian(x, x[:, ::4], torch.randn(2, 3, 5)).shape
    torch.Size([2, 12, 5])

    Shapes: x (B, N, D), keys (B, M, D), g (B, M, E) -> (B, N, E).
    Raises ValueError if the tensors do not fit this pattern or there is no such algorithm.
    """
    check("gaussian", {"x": (x, "B N D"), "keys": (keys, "B M D"), "g": (g, "B M E")})
    return _attention("gaussian", x, keys, g, 1.0, algorithm)


@in_autocast_type
def embedded_gaussian(theta: Tensor, phi: Tensor, g: Tensor, *, scale: float = 1.0, algorithm: str = "auto") -> Tensor:
    """y_i = sum_j softmax_j(scale * theta_i . phi_j) g_j: the paper's equation 3, where scale is 1.

    Time O(N M (D + E)), memory O(N E + M (D + E)). The scale is applied before the product.

    >>> import torch
    >>> from nlnet import ops
    >>> theta, phi, g = torch.randn(2, 12, 8), torch.randn(2, 3, 8), torch.randn(2, 3, 5)
    >>> ops.embedded_gaussian(theta, phi, g, scale=8**-0.5).shape
    torch.Size([2, 12, 5])

    Shapes: theta (B, N, D), phi (B, M, D), g (B, M, E) -> (B, N, E).
    Raises ValueError if the tensors do not fit this pattern or there is no such algorithm.
    """
    check("embedded_gaussian", {"theta": (theta, "B N D"), "phi": (phi, "B M D"), "g": (g, "B M E")})
    return _attention("embedded_gaussian", theta, phi, g, scale, algorithm)


def _affinity(query: Tensor, key: Tensor, scale: float = 1.0) -> Tensor:
    return tiled.softmax(tiled.scores(query, key, scale))


def _attention(pairwise: str, query: Tensor, key: Tensor, value: Tensor, scale: float, algorithm: str) -> Tensor:
    triton = algorithm == "auto" and query.is_cuda and _triton_takes(query, key, value)
    sizes = key.shape[1], query.shape[2], value.shape[2]
    algorithm = algorithm_for(pairwise, algorithm, query, *sizes, triton=triton)
    if algorithm != "materialized" and torch.onnx.is_in_onnx_export():
        algorithm = "materialized"
    if algorithm == "tiled":
        return tiled.attention(query, key, value, scale)
    if algorithm == "triton":
        from nlnet.ops.triton.attention import attention

        return attention(query * scale, key, value)
    if algorithm == "fused":
        return fused.attention(query, key, value, scale)
    if query.device.type == "cpu":
        return tiled.stored(query, key, value, scale)
    # A GPU multiplies half precision in its own type.
    return torch.bmm(_affinity(query, key, scale), value)


def _triton_takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    from nlnet.ops.triton.attention import supports

    return supports(query, key, value)


GAUSSIAN = Pairwise("gaussian", _affinity, gaussian, embeds="input", algorithms=ALGORITHMS)
EMBEDDED_GAUSSIAN = Pairwise("embedded_gaussian", _affinity, embedded_gaussian, has_scale=True, algorithms=ALGORITHMS)
