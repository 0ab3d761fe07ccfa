"""Every derivative that PyTorch can be asked for, of every algorithm, against the equation in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor, func
from torch.utils.checkpoint import checkpoint

from nlnet.ops import PAIRWISE, choose_algorithm

SOFTMAX = ("gaussian", "embedded_gaussian")
ALGORITHMS = [
    *((pairwise, algorithm) for pairwise in SOFTMAX for algorithm in ("tiled", "fused")),
    ("dot_product", "associative"),
    ("concatenation", "sorted"),
    *((pairwise, "materialized") for pairwise in PAIRWISE),
]
# One of each way to compute; what the others share with it is left to `make test-full`.
FAST = [("gaussian", "tiled"), ("embedded_gaussian", "fused"), ("concatenation", "sorted")]
CASES = [pytest.param(*pair, marks=() if pair in FAST else pytest.mark.full) for pair in ALGORITHMS]
B, N, M, D, E = 2, 7, 5, 3, 4
DTYPES = [torch.float64, torch.float32]

# PyTorch's transforms warn about parts of their own.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated", "ignore:Attempted to insert a get_attr Node"
)


def equation(pairwise: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """y_i = 1/C(x) sum_j f(x_i, x_j) g_j with the map in memory."""
    if pairwise == "concatenation":
        return torch.einsum("bnm,bme->bne", (query[:, :, None] + key[:, None]).clamp(min=0) / key.shape[1], value)
    scores = torch.einsum("bnd,bmd->bnm", query, key)
    weights = scores / key.shape[1]
    if pairwise != "dot_product":
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.einsum("bnm,bme->bne", weights, value)


def operation(pairwise: str, algorithm: str) -> Callable[..., Tensor]:
    return lambda *tensors: PAIRWISE[pairwise](*tensors, algorithm=algorithm)


def tensors(pairwise: str, dtype: torch.dtype = torch.float64, **sizes: int) -> list[Tensor]:
    b, n, m = sizes.get("b", B), sizes.get("n", N), sizes.get("m", M)
    generator = torch.Generator().manual_seed(0)
    first = ((b, n), (b, m)) if pairwise == "concatenation" else ((b, n, D), (b, m, D))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in (*first, (b, m, E))]


def network(function: Callable[..., Tensor], tensors_: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """A scalar of s (3,): all three tensors depend on s, and what follows the operation is not linear.

    It computes in float64 around the function, whose error is then the only one.
    """

    def loss(s: Tensor) -> Tensor:
        query, key, value = (t.double() for t in tensors_)
        given = (query * s[0].cos(), key + s[1] * key.sin(), value * s.square().sum() + s[2])
        y = function(*(t.to(tensors_[0].dtype) for t in given)).double()
        return y.sin().square().mean() + 0.1 * y.pow(3).mean()

    return loss


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("pairwise", "algorithm"), CASES)
def test_numerically(pairwise: str, algorithm: str) -> None:
    function = operation(pairwise, algorithm)
    inputs = [t.requires_grad_() for t in tensors(pairwise, n=4, m=3)]
    options = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(function, inputs, **options)

    def followed(*inputs_: Tensor) -> Tensor:
        return function(*inputs_).sin()

    options = {"check_fwd_over_rev": True, "check_rev_over_rev": True, "check_batched_grad": True}
    assert torch.autograd.gradgradcheck(followed, inputs, **options)


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "grad": func.grad,
    "jacrev": func.jacrev,
    "jacfwd": func.jacfwd,
    "jvp": lambda f: lambda s: func.jvp(f, (s,), (s.cos(),))[1],
    "linearize": lambda f: lambda s: func.linearize(f, s)[1](s.cos()),
    "hessian": func.hessian,
    "reverse over reverse": lambda f: func.jacrev(func.jacrev(f)),
    "reverse over forward": lambda f: func.jacrev(func.jacfwd(f)),
    "forward over forward": lambda f: func.jacfwd(func.jacfwd(f)),
    "gradient over gradient": lambda f: func.grad(lambda s: func.grad(f)(s).square().sum()),
    "third": lambda f: func.jacrev(func.jacrev(func.grad(f))),
    "mapped gradient": lambda f: lambda s: func.vmap(func.grad(f))(torch.stack([s, s.cos(), 2 * s])),
    "mapped hessian": lambda f: lambda s: func.vmap(func.hessian(f))(torch.stack([s, s.cos()])),
    "mapped twice": lambda f: lambda s: func.vmap(func.vmap(func.grad(f)))(torch.stack([s, s.cos()])[None]),
    "jacobian, vectorized": lambda f: lambda s: torch.autograd.functional.jacobian(f, s, vectorize=True),
    "hessian, vectorized": lambda f: lambda s: torch.autograd.functional.hessian(f, s, vectorize=True),
    "hessian times vector": lambda f: lambda s: torch.autograd.functional.hvp(f, s, s.cos())[1],
    "backward of forward": lambda f: lambda s: _backward_of_forward(f, s),
    "backward": lambda f: lambda s: _penalty(f, s, create_graph=False),
    "backward with a graph": lambda f: lambda s: _penalty(f, s, create_graph=True),
    "checkpoint": lambda f: _penalty_free(lambda s: checkpoint(f, s, use_reentrant=False)),
    "checkpoint, penalized": lambda f: (
        lambda s: _penalty(lambda t: checkpoint(f, t, use_reentrant=False), s, create_graph=True)
    ),
    "checkpoint, reentrant": lambda f: _penalty_free(lambda s: checkpoint(f, s, use_reentrant=True)),
}


def _penalty(f: Callable[[Tensor], Tensor], s: Tensor, *, create_graph: bool) -> Tensor:
    """The gradient of |grad f|^2, as in R1 and WGAN-GP."""
    s = s.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(s), s, create_graph=True)
    return torch.autograd.grad(first.square().sum(), s, create_graph=create_graph)[0].detach()


def _penalty_free(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def gradient(s: Tensor) -> Tensor:
        s = s.clone().requires_grad_()
        f(s).backward()
        assert s.grad is not None
        return s.grad

    return gradient


def _backward_of_forward(f: Callable[[Tensor], Tensor], s: Tensor) -> Tensor:
    """With dual numbers, outside of `torch.func`: a tangent, and its gradient."""
    s = s.clone().requires_grad_()
    with fwd.dual_level():
        tangent = fwd.unpack_dual(f(fwd.make_dual(s, s.detach().cos()))).tangent
        assert tangent is not None
        return torch.autograd.grad(tangent, s)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("pairwise", "algorithm"), CASES)
def test_transforms(pairwise: str, algorithm: str, dtype: torch.dtype) -> None:
    inputs = tensors(pairwise, dtype)
    s = torch.tensor([0.3, 0.7, 0.2], dtype=torch.float64)
    mine = network(operation(pairwise, algorithm), inputs)
    exact = network(lambda *t: equation(pairwise, *t), [t.double() for t in inputs])
    limit = 1e-12 if dtype == torch.float64 else 1e-6
    errors = {name: relative(way(mine)(s), way(exact)(s)) for name, way in TRANSFORMS.items()}
    assert {name: error for name, error in errors.items() if not error <= limit} == {}


@pytest.mark.parametrize("axes", [(0, 0, 0), (1, None, None), (None, 0, None), (None, None, 2), (2, 1, 0)])
@pytest.mark.parametrize(("pairwise", "algorithm"), CASES)
def test_any_of_the_tensors_may_be_mapped_along_any_axis(
    pairwise: str, algorithm: str, axes: tuple[int | None, ...]
) -> None:
    """The value and all three gradients, those of what is shared being sums."""
    inputs = tensors(pairwise)
    if pairwise == "concatenation":
        axes = tuple(None if a is None else min(a, t.ndim) for a, t in zip(axes, inputs, strict=True))
    stacked = [
        t if axis is None else torch.stack([t, t.cos(), 0.5 * t], axis) for t, axis in zip(inputs, axes, strict=True)
    ]

    def value_and_gradients(function: Callable[..., Tensor]) -> list[Tensor]:
        given = [t.clone().requires_grad_() for t in stacked]
        y = func.vmap(function, axes)(*given)
        inside = func.vmap(func.grad(lambda *t: function(*t).sin().sum(), (0, 1, 2)), axes)(*stacked)
        return [y, *inside, *torch.autograd.grad(y.sin().sum(), given)]

    found = value_and_gradients(operation(pairwise, algorithm))
    wanted = value_and_gradients(lambda *t: equation(pairwise, *t))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_a_jacobian_inside_of_a_map_of_its_own_length() -> None:
    """What the value keeps for the gradient belongs to the clips of the outer map."""
    for pairwise, algorithm in ALGORITHMS:
        inputs = tensors(pairwise, b=1, n=3, m=2)
        stacked = [torch.stack([t * (k + 1) / 3 for k in range(12)]) for t in inputs]

        def jacobians(function: Callable[..., Tensor], given: list[Tensor] = stacked) -> tuple[Tensor, ...]:
            return func.vmap(func.jacrev(function, (0, 1, 2)))(*given)

        wanted = jacobians(lambda *t, pairwise=pairwise: equation(pairwise, *t))
        torch.testing.assert_close(jacobians(operation(pairwise, algorithm)), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("pairwise", "algorithm"), CASES)
def test_some_of_the_tensors_may_be_constant(pairwise: str, algorithm: str) -> None:
    inputs = tensors(pairwise)
    for which in range(3):

        def second(function: Callable[..., Tensor], which: int = which) -> Tensor:
            given = [t.clone().requires_grad_(k == which) for k, t in enumerate(inputs)]
            (first,) = torch.autograd.grad(function(*given).sin().sum(), given[which], create_graph=True)
            return torch.autograd.grad(first.square().sum(), given[which])[0]

        wanted = second(lambda *t: equation(pairwise, *t))
        torch.testing.assert_close(second(operation(pairwise, algorithm)), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_map_too_large_to_be_stored_by_itself(pairwise: str) -> None:
    """600 x 600 positions, above `SMALL_MAP`, and several tiles of it: what `auto` takes there."""
    inputs = tensors(pairwise, b=1, n=600, m=600)
    assert choose_algorithm(pairwise, 600, 600, D, E) != "materialized"
    s = torch.tensor([0.3, 0.7, 0.2], dtype=torch.float64)
    mine = network(operation(pairwise, "auto"), inputs)
    exact = network(lambda *t: equation(pairwise, *t), inputs)
    for name in ("jvp", "backward", "backward with a graph", "mapped gradient"):
        assert relative(TRANSFORMS[name](mine)(s), TRANSFORMS[name](exact)(s)) <= 1e-11, name


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("pairwise", "algorithm"), [pair for pair in ALGORITHMS if pair[1] != "materialized"])
def test_transforms_inside_of_what_is_compiled(pairwise: str, algorithm: str) -> None:
    inputs, s = tensors(pairwise), torch.tensor([0.3, 0.7, 0.2], dtype=torch.float64)
    for name in ("mapped gradient", "jvp"):
        torch._dynamo.reset()
        way = TRANSFORMS[name](network(operation(pairwise, algorithm), inputs))
        compiled = torch.compile(way, fullgraph=True, backend="aot_eager")
        assert relative(compiled(s), way(s)) <= 1e-12


def test_a_released_graph_is_released() -> None:
    """Fused attention keeps a graph of its own; it goes with the backward pass, not with the loss."""
    query, key, value = (t.requires_grad_() for t in tensors("gaussian"))
    y = PAIRWISE["gaussian"](query, key, value, algorithm="fused")
    y.sum().backward(retain_graph=True)
    once = query.grad.clone()
    y.sum().backward()
    torch.testing.assert_close(query.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
