"""The pairwise functions of the non-local operation y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j) (section 3.2 of the paper).

Shapes: B clips, N queries (positions i), M keys (positions j), D channels of theta and phi, E channels of g.
Each runs in one of several exact forms (`nlnet.ops.forms`), which `form=` forces. None stores a map of N M numbers
above `nlnet.ops.MAP_LIMIT` by itself. bfloat16 and float16 sum in float32.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nlnet.ops import blocked
from nlnet.ops.forms import choose_form, forced_form
from nlnet.ops.shapes import check
from nlnet.ops.sorted_keys import concatenation_sorted


def gaussian(x: Tensor, keys: Tensor, g: Tensor, *, form: str = "auto") -> Tensor:
    """y_i = sum_j softmax_j(x_i . k_j) g_j: the paper's equation 2, where the keys k are x itself or x sub-sampled.

    Time O(N M (D + E)), memory O(N E + M (D + E)).

    Shapes: x (B, N, D), keys (B, M, D), g (B, M, E) -> (B, N, E).
    Raises ValueError if the tensors do not fit this pattern or there is no such form.
    """
    check("gaussian", {"x": (x, "B N D"), "keys": (keys, "B M D"), "g": (g, "B M E")})
    return _softmax("gaussian", x, keys, g, 1.0, form)


def embedded_gaussian(theta: Tensor, phi: Tensor, g: Tensor, *, scale: float = 1.0, form: str = "auto") -> Tensor:
    """y_i = sum_j softmax_j(scale * theta_i . phi_j) g_j: the paper's equation 3, where scale is 1.

    Time O(N M (D + E)), memory O(N E + M (D + E)). The scale is applied to theta before the product.

    Shapes: theta (B, N, D), phi (B, M, D), g (B, M, E) -> (B, N, E).
    Raises ValueError if the tensors do not fit this pattern or there is no such form.
    """
    check("embedded_gaussian", {"theta": (theta, "B N D"), "phi": (phi, "B M D"), "g": (g, "B M E")})
    return _softmax("embedded_gaussian", theta, phi, g, scale, form)


def dot_product(theta: Tensor, phi: Tensor, g: Tensor, *, form: str = "auto") -> Tensor:
    """y_i = 1/M sum_j (theta_i . phi_j) g_j: the paper's equation 4 with its normaliser, the number of keys.

    Without a softmax the product associates: theta (phi^T g) costs (N + M) D E multiply-adds and D E numbers of memory,
    (theta phi^T) g costs N M (D + E) and N M. The cheaper one is taken: its map is then smaller than theta and phi.

    Shapes: theta (B, N, D), phi (B, M, D), g (B, M, E) -> (B, N, E).
    Raises ValueError if the tensors do not fit this pattern or there is no such form.
    """
    check("dot_product", {"theta": (theta, "B N D"), "phi": (phi, "B M D"), "g": (g, "B M E")})
    form = _form("dot_product", form, theta, phi.shape[1], theta.shape[2], g.shape[2])
    dtype, m = theta.dtype, phi.shape[1]
    # phi^T g sums over all keys: float16 ends at 65,504.
    theta, phi, g = blocked.wide(theta), blocked.wide(phi), blocked.wide(g)
    if form == "associative":
        return torch.bmm(theta, torch.bmm(phi.mT, g) / m).to(dtype)
    return torch.bmm(torch.bmm(theta, phi.mT) / m, g).to(dtype)


def concatenation(a: Tensor, b: Tensor, g: Tensor, *, form: str = "auto") -> Tensor:
    """y_i = 1/M sum_j relu(a_i + b_j) g_j: the paper's equation 5, its w_f . [theta_i, phi_j] written as a_i + b_j.

    Exact, without the (N, M) map: relu(a_i + b_j) is a_i + b_j where b_j > -a_i and 0 elsewhere, so over sorted b the
    sum is a pair of prefix sums. Time O((N + M) log M + (N + M) E), memory O((N + M) E). The prefix sums run in
    float64: in float32 they cancel when few pairs survive. ONNX has no search, and gets the form that stores the map.

    Shapes: a (B, N), b (B, M), g (B, M, E) -> (B, N, E), with N queries, M keys, E values.
    Raises ValueError if the tensors do not fit this pattern or there is no such form.
    """
    check("concatenation", {"a": (a, "B N"), "b": (b, "B M"), "g": (g, "B M E")})
    asked, form = form, _form("concatenation", form, a, b.shape[1], 1, g.shape[2])
    if asked != "materialised" and torch.onnx.is_in_onnx_export():
        warnings.warn(
            f"concatenation: exported in its plain form, which stores a map of {a.shape[1]} x {b.shape[1]} numbers: "
            "ONNX has no searchsorted",
            stacklevel=2,
        )
        form = "materialised"
    if form == "sorted":
        return concatenation_sorted(a, b, g)
    return torch.bmm(affinity("concatenation", blocked.wide(a), blocked.wide(b)), blocked.wide(g)).to(g.dtype)


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "gaussian": gaussian,
    "embedded_gaussian": embedded_gaussian,
    "dot_product": dot_product,
    "concatenation": concatenation,
}
"""The operation behind each name that a configuration may use."""


def affinity(pairwise: str, theta: Tensor, phi: Tensor, *, scale: float = 1.0) -> Tensor:
    """The normalised map f(x_i, x_j) / C(x) itself: what the other functions multiply with g without storing it.

    Any choice of queries gives their rows of the map at the cost of those rows.

    Shapes: theta (B, N, D), phi (B, M, D) -> (B, N, M); for "gaussian" these are x and its keys; for "concatenation"
    a (B, N), b (B, M) -> (B, N, M).
    Raises ValueError if the tensors do not fit this pattern, `pairwise` is not a name in `PAIRWISE`, or a scale is
    given to a function that has none.
    """
    if pairwise not in PAIRWISE:
        raise ValueError(f"affinity: unknown pairwise function {pairwise!r}, expected one of {', '.join(PAIRWISE)}")
    if scale != 1.0 and pairwise != "embedded_gaussian":
        raise ValueError(f"affinity {pairwise}: has no scale, got scale={scale}")
    names = {"gaussian": ("x", "keys"), "concatenation": ("a", "b")}.get(pairwise, ("theta", "phi"))
    patterns = ("B N", "B M") if pairwise == "concatenation" else ("B N D", "B M D")
    check(f"affinity {pairwise}", dict(zip(names, zip((theta, phi), patterns, strict=True), strict=True)))
    dtype, m, theta, phi = theta.dtype, phi.shape[1], blocked.wide(theta), blocked.wide(phi)
    if pairwise == "concatenation":
        return (torch.relu(theta[:, :, None] + phi[:, None]) / m).to(dtype)
    if pairwise == "dot_product":
        return (torch.bmm(theta, phi.mT) / m).to(dtype)
    return torch.bmm(theta * scale, phi.mT).softmax(dim=-1).to(dtype)


def _softmax(pairwise: str, query: Tensor, key: Tensor, value: Tensor, scale: float, form: str) -> Tensor:
    triton = form == "auto" and query.is_cuda and _triton_takes(query, key, value)
    form = _form(pairwise, form, query, key.shape[1], query.shape[2], value.shape[2], triton)
    if torch.onnx.is_in_onnx_export():
        form = "materialised"
    if form == "blocked":
        return blocked.attention(query, key, value, scale)
    if form == "triton":
        from nlnet.ops.triton_attention import attention

        return attention(query * scale, key, value)
    if form == "fused":
        # A head axis, and the channels of a position side by side: anything else silently stores the map.
        q, k, v = (t[:, None].contiguous() for t in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1)
    if query.device.type == "cpu":
        return blocked.stored(blocked.wide(query), blocked.wide(key), blocked.wide(value), scale).to(query.dtype)
    return blocked.stored(query, key, value, scale)


def _triton_takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    from nlnet.ops.triton_attention import supports

    return supports(query, key, value)


def _form(pairwise: str, form: str, query: Tensor, m: int, d: int, e: int, triton: bool = False) -> str:
    """The form forced by a caller, or else the one that the sizes, the type and the device ask for."""
    if form != "auto":
        return forced_form(pairwise, form)
    if torch.compiler.is_exporting():
        # A choice by size would hold the exported program to the sizes of its example, and plain operations alone run
        # where this package is not.
        return "associative" if pairwise == "dot_product" else "materialised"
    (b, n), kind = query.shape[:2], query.device.type
    return choose_form(pairwise, n, m, d, e, batch=b, dtype=query.dtype, device_type=kind, triton=triton)
