"""The operations against float64 oracles written from the paper's equations."""

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nlnet.ops import PAIRWISE, affinity, concatenation, dot_product, embedded_gaussian, gaussian, tiled

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 2, 2, 2), (2, 2, 5, 3, 3), (1, 2, 3, 8, 4)]


def tensors(pairwise: str, shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """theta, phi, g in float64; a, b, g for the concatenation."""
    b, n, m, d, e = shape
    generator = torch.Generator().manual_seed(seed)
    first = ((b, n), (b, m)) if pairwise == "concatenation" else ((b, n, d), (b, m, d))
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in (*first, (b, m, e))]


def oracle(pairwise: str, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """y_i = 1/C(x) sum_j f(x_i, x_j) g_j, one query at a time."""
    theta, phi, g = theta.double(), phi.double(), g.double()
    rows = []
    for i in range(theta.shape[1]):
        if pairwise == "concatenation":
            weights = (theta[:, i, None] + phi).clamp(min=0) / phi.shape[1]
        else:
            weights = (theta[:, i, None] * phi).sum(-1)
            if pairwise == "dot_product":
                weights = weights / phi.shape[1]
            else:
                weights = (weights - weights.amax(-1, keepdim=True)).exp()
                weights = weights / weights.sum(-1, keepdim=True)
        rows.append((weights[..., None] * g).sum(1))
    return torch.stack(rows, 1)


def error(y: Tensor, truth: Tensor) -> float:
    """The norm of the error over that of the truth; absolute where the truth is zero."""
    return float((y.double() - truth).norm() / (truth.norm() if truth.norm() > 0 else 1.0))


@st.composite
def cases(draw: st.DrawFn, pairwise: str) -> list[Tensor]:
    size = st.integers(1, 40)
    shape = (draw(st.integers(1, 2)), draw(size), draw(size), draw(st.integers(1, 17)), draw(st.integers(1, 9)))
    theta, phi, g = tensors(pairwise, shape, seed=draw(st.integers(0, 10_000)))
    kind = draw(st.sampled_from(("plain", "offset", "scale", "ties", "negative", "edge")))
    if kind == "offset" and pairwise != "dot_product":
        g = g + 1e4
    if kind == "scale":
        theta = theta * 1e3
    if kind == "ties":
        phi = phi.round()
    if kind == "negative":
        theta = -theta.abs() - phi.abs().max()
    if kind == "edge" and pairwise == "concatenation":
        theta = -phi.amax(1, keepdim=True) + 1e-3 * theta
    return [theta, phi, g]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_no_further_from_the_equation_than_the_stored_map(pairwise: str, dtype: torch.dtype) -> None:
    @settings(max_examples=200, derandomize=True, deadline=None, database=None)
    @given(cases(pairwise))
    def agrees(inputs: list[Tensor]) -> None:
        given_ = [t.to(dtype) for t in inputs]
        truth = oracle(pairwise, *given_)
        if truth.abs().max() > torch.finfo(dtype).max / 2:
            return  # the result itself is out of the type's range
        y = PAIRWISE[pairwise](*given_)
        stored = PAIRWISE[pairwise](*given_, algorithm="materialized")
        assert torch.isfinite(y).all()
        assert error(y, truth) <= 3 * error(stored, truth) + 4 * torch.finfo(dtype).eps

    agrees()


ALGORITHMS = [
    ("gaussian", "tiled"),
    ("embedded_gaussian", "tiled"),
    ("dot_product", "associative"),
    ("concatenation", "sorted"),
    *((pairwise, "materialized") for pairwise in PAIRWISE),
]


@pytest.mark.parametrize(("pairwise", "algorithm"), ALGORITHMS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 33, 20, 8, 5)], ids=str)
def test_every_algorithm_is_the_equation(pairwise: str, algorithm: str, shape: tuple[int, ...]) -> None:
    inputs = tensors(pairwise, shape)
    y = PAIRWISE[pairwise](*inputs, algorithm=algorithm)
    torch.testing.assert_close(y, oracle(pairwise, *inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_affinity_is_the_map(pairwise: str, shape: tuple[int, ...]) -> None:
    theta, phi, g = tensors(pairwise, shape)
    torch.testing.assert_close(affinity(pairwise, theta, phi) @ g, oracle(pairwise, theta, phi, g))


@pytest.mark.parametrize(("pairwise", "algorithm"), ALGORITHMS[:4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(pairwise: str, algorithm: str, shape: tuple[int, ...]) -> None:
    inputs = [t.requires_grad_() for t in tensors(pairwise, shape, seed=3)]

    def operation(*tensors_: Tensor) -> Tensor:
        return PAIRWISE[pairwise](*tensors_, algorithm=algorithm)

    assert torch.autograd.gradcheck(operation, inputs)
    if pairwise != "concatenation":
        assert torch.autograd.gradgradcheck(operation, inputs)


@pytest.mark.parametrize("tile", [1, 64, 4096])
def test_memory_that_holds_anything_does_not_reach_the_gradients(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one tile, in several of a clip, and in one a query; new memory is filled with NaN here."""
    monkeypatch.setattr(tiled, "TILE", tile)
    monkeypatch.setattr(tiled, "KEPT", 2 * tile)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    inputs = [t.requires_grad_() for t in tensors("embedded_gaussian", (2, 33, 17, 5, 4))]
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        found, truth = (form(*inputs, 0.3) for form in (tiled.attention, tiled.stored))
        gradients = [torch.autograd.grad(y.square().sum(), inputs) for y in (found, truth)]
    finally:
        torch.use_deterministic_algorithms(False)
    for ours, right in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, right)


def test_the_scale_is_that_of_the_products() -> None:
    theta, phi, g = tensors("embedded_gaussian", (2, 7, 5, 4, 4))
    y = embedded_gaussian(theta, phi, g, scale=0.25)
    torch.testing.assert_close(y, oracle("embedded_gaussian", theta * 0.25, phi, g))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_precision_sums_wide(dtype: torch.dtype) -> None:
    """A sum of 4,096 products of 30 x 30 is beyond float16; its mean is not."""
    theta, phi, g = (torch.full((1, 4096, 1), 30.0, dtype=dtype) for _ in range(3))
    torch.testing.assert_close(dot_product(theta, phi, g), torch.full_like(g, 27000.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", PAIRWISE)
def test_compiles_whole(name: str) -> None:
    inputs = [t.float() for t in tensors(name, (2, 12, 6, 4, 4))]
    operation: Callable[..., Tensor] = torch.compile(PAIRWISE[name].__call__, fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = operation(*inputs)
    torch.testing.assert_close(y, PAIRWISE[name](*inputs), rtol=1e-4, atol=1e-5)


ONES = torch.ones(2, 5, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian(ONES[0], ONES, ONES), r"gaussian: expected x \(B, N, D\).*x has 2 dimensions instead of 3"),
        (lambda: dot_product(ONES, ONES[..., :3], ONES), r"dot_product: expected theta.*D is 4 in theta and 3 in phi"),
        (lambda: dot_product(ONES, ONES, ONES[:, :3]), r"M is 5 in phi and 3 in g"),
        (lambda: embedded_gaussian(ONES, ONES[:, :0], ONES[:, :0]), r"embedded_gaussian: .*M is 0 in phi"),
        (lambda: concatenation(ONES[..., 0], ONES[:1, :, 0], ONES), r"concatenation: expected a \(B, N\).*B is 2 in a"),
        (lambda: dot_product(ONES, ONES.double(), ONES), r"theta is torch.float32 and phi is torch.float64"),
        (lambda: gaussian(ONES.long(), ONES.long(), ONES.long()), r"not a floating point type"),
        (lambda: dot_product(ONES.to("meta"), ONES, ONES), r"theta is on meta and phi on cpu"),
        (lambda: dot_product(ONES, ONES, ONES, algorithm="sorted"), r"sorted"),
        (lambda: affinity("cosine", ONES, ONES), r"unknown pairwise function 'cosine'"),
        (lambda: affinity("dot_product", ONES, ONES, scale=2.0), r"has no scale"),
    ],
)
def test_odd_input_is_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
