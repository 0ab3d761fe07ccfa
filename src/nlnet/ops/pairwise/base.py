"""What a pairwise function is, the functions by name, and the map of any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nlnet.ops.precision import in_autocast_type, upcast
from nlnet.ops.shapes import check

Embedding = Literal["input", "theta_phi", "scalars"]

# What the tensors of each kind of embedding are called, and their axes.
_TENSORS: dict[Embedding, tuple[tuple[str, str], tuple[str, str]]] = {
    "input": (("x", "B N D"), ("keys", "B M D")),
    "theta_phi": (("theta", "B N D"), ("phi", "B M D")),
    "scalars": (("a", "B N"), ("b", "B M")),
}


@dataclass(frozen=True)
class Pairwise:
    """f(x_i, x_j) / C(x), and y_i = 1/C(x) sum_j f(x_i, x_j) g_j (section 3.2 of the paper).

    Called with query, key and value it gives y (B, N, E); options are those of its `apply`.

    Args:
        name: what `pairwise=` of a block and of a configuration calls it.
        affinity: (query, key) -> the normalized map (B, N, M), in float32 or more; with `scale` too if it has one.
        apply: `(query, key, value, **options)` -> y; None multiplies the map with the values.
        embeds: what query and key are: "theta_phi", embeddings (B, N, D) and (B, M, D); "input", the positions
            themselves; "scalars", one number a position, (B, N) and (B, M), as w_f . [theta_i, phi_j] falls apart.
        has_scale: whether it takes a factor `scale` before a softmax.
        algorithms: what `algorithm=` of `apply` takes, besides "auto"; all of them are exact.

    >>> import torch
    >>> from nlnet import ops
    >>> nearness = ops.Pairwise("nearness", lambda theta, phi: (-torch.cdist(theta, phi)).softmax(dim=-1))
    >>> nearness(torch.ones(1, 4, 2), torch.ones(1, 3, 2), torch.ones(1, 3, 5)).shape
    torch.Size([1, 4, 5])
    """

    name: str
    affinity: Callable[..., Tensor]
    apply: Callable[..., Tensor] | None = None
    embeds: Embedding = "theta_phi"
    has_scale: bool = False
    algorithms: tuple[str, ...] = ("materialized",)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        if self.apply is not None:
            return self.apply(query, key, value, **options)
        weights = self.affinity(upcast(query), upcast(key), **options)
        return torch.bmm(weights, upcast(value)).to(value.dtype)


PAIRWISE: dict[str, Pairwise] = {}
"""The functions behind the names that blocks and configurations use."""


def register_pairwise(pairwise: Pairwise) -> Pairwise:
    """Make a function known by its name; a name can be registered again, by a reloaded module for instance.

    >>> from nlnet import ops
    >>> ops.register_pairwise(ops.PAIRWISE["dot_product"]).name
    'dot_product'

    Raises ValueError where another package's function has this name.
    """
    known = PAIRWISE.get(pairwise.name)
    if known is not None and known.affinity.__module__ != pairwise.affinity.__module__:
        raise ValueError(f"register_pairwise: {pairwise.name!r} is the function of {known.affinity.__module__} already")
    PAIRWISE[pairwise.name] = pairwise
    return pairwise


@in_autocast_type
def affinity(pairwise: str, theta: Tensor, phi: Tensor, *, scale: float = 1.0) -> Tensor:
    """The normalized map f(x_i, x_j) / C(x) itself: what the other functions multiply with g without storing it.

    Any choice of queries gives their rows of the map at the cost of those rows.

    >>> import torch
    >>> from nlnet import ops
    >>> ops.affinity("embedded_gaussian", torch.ones(1, 2, 8), torch.ones(1, 4, 8))[0, 0].tolist()
    [0.25, 0.25, 0.25, 0.25]

    Shapes: theta (B, N, D), phi (B, M, D) -> (B, N, M); for "gaussian" these are x and its keys; for "concatenation"
    a (B, N), b (B, M) -> (B, N, M).
    Raises ValueError if the tensors do not fit this pattern, `pairwise` is not a name in `PAIRWISE`, or a scale is
    given to a function that has none.
    """
    if pairwise not in PAIRWISE:
        raise ValueError(f"affinity: unknown pairwise function {pairwise!r}, expected one of {', '.join(PAIRWISE)}")
    function = PAIRWISE[pairwise]
    if scale != 1.0 and not function.has_scale:
        raise ValueError(f"affinity {pairwise}: has no scale, got scale={scale}")
    (query, query_axes), (key, key_axes) = _TENSORS[function.embeds]
    check(f"affinity {pairwise}", {query: (theta, query_axes), key: (phi, key_axes)})
    options = {"scale": scale} if function.has_scale else {}
    return function.affinity(upcast(theta), upcast(phi), **options).to(theta.dtype)
