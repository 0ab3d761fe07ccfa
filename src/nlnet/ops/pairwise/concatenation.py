"""The concatenation (equation 5)."""

import warnings

import torch
from torch import Tensor

from nlnet.ops.pairwise.algorithms import algorithm_for
from nlnet.ops.pairwise.base import Pairwise
from nlnet.ops.precision import in_autocast_type
from nlnet.ops.shapes import check
from nlnet.ops.sorted_keys import concatenation_sorted, concatenation_stored


@in_autocast_type
def concatenation(a: Tensor, b: Tensor, g: Tensor, *, algorithm: str = "auto") -> Tensor:
    """y_i = 1/M sum_j relu(a_i + b_j) g_j: the paper's equation 5, its w_f . [theta_i, phi_j] written as a_i + b_j.

    Exact, without the (N, M) map: relu(a_i + b_j) is a_i + b_j where b_j > -a_i and 0 elsewhere, so over sorted b the
    sum is a pair of prefix sums. Time O((N + M) log M + (N + M) E), memory O((N + M) E). The prefix sums run in
    float64: in float32 they cancel when few pairs survive. ONNX has no search, and gets the plain algorithm, which
    stores the map.

    >>> import torch
    >>> from nlnet import ops
    >>> ops.concatenation(torch.randn(2, 12), torch.randn(2, 3), torch.randn(2, 3, 5)).shape
    torch.Size([2, 12, 5])

    Shapes: a (B, N), b (B, M), g (B, M, E) -> (B, N, E), with N queries, M keys, E values.
    Raises ValueError if the tensors do not fit this pattern or there is no such algorithm.
    """
    check("concatenation", {"a": (a, "B N"), "b": (b, "B M"), "g": (g, "B M E")})
    asked, algorithm = algorithm, algorithm_for("concatenation", algorithm, a, b.shape[1], 1, g.shape[2])
    if asked != "materialized" and torch.onnx.is_in_onnx_export():
        warnings.warn(
            f"concatenation: exported in its plain form, which stores a map of {a.shape[1]} x {b.shape[1]} numbers: "
            "ONNX has no searchsorted",
            stacklevel=2,
        )
        algorithm = "materialized"
    if algorithm == "sorted":
        return concatenation_sorted(a, b, g)
    return concatenation_stored(a, b, g)


def _affinity(a: Tensor, b: Tensor) -> Tensor:
    return torch.relu(a[:, :, None] + b[:, None]) / b.shape[1]


CONCATENATION = Pairwise(
    "concatenation", _affinity, concatenation, embeds="scalars", algorithms=("materialized", "sorted")
)
