"""The operations against float64 oracles written from the paper's equations, position by position."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.flop_counter import FlopCounterMode

from nlnet.ops import PAIRWISE, affinity, dot_product, embedded_gaussian

# (B, N, M, D, E): single query, single key, more keys than queries, D unlike E, a map cheaper than its factors
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 5, 1, 3, 3),
    (1, 1, 6, 4, 4),
    (2, 7, 3, 4, 4),
    (3, 4, 9, 2, 5),
    (2, 3, 2, 16, 16),
    (1, 33, 20, 8, 8),
]


def tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    b, n, m, d, e = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = ((b, n, d), (b, m, d), (b, m, e))
    theta, phi, g = (torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes)
    return theta, phi, g


def oracle_map(pairwise: str, theta: Tensor, phi: Tensor, scale: float) -> Tensor:
    """f(x_i, x_j) / C(x), one number at a time."""
    theta, phi = theta.double(), phi.double()
    (b, n, _), m = theta.shape, phi.shape[1]
    result = torch.zeros(b, n, m, dtype=torch.float64)
    for clip in range(b):
        for i in range(n):
            products = [float((theta[clip, i] * phi[clip, j]).sum()) for j in range(m)]
            if pairwise == "embedded_gaussian":
                f = [math.exp(scale * product) for product in products]
                normaliser = sum(f)
            else:
                f, normaliser = products, m
            for j in range(m):
                result[clip, i, j] = f[j] / normaliser
    return result


def oracle(pairwise: str, theta: Tensor, phi: Tensor, g: Tensor, scale: float = 1.0) -> Tensor:
    """y_i = 1/C(x) sum_j f(x_i, x_j) g_j."""
    weights = oracle_map(pairwise, theta, phi, scale)
    y = torch.zeros(*theta.shape[:2], g.shape[2], dtype=torch.float64)
    for j in range(phi.shape[1]):
        y += weights[:, :, j, None] * g.double()[:, j, None, :]
    return y


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_embedded_gaussian_is_the_equation(shape: tuple[int, ...], scale: float) -> None:
    theta, phi, g = tensors(shape)
    y = embedded_gaussian(theta, phi, g, scale=scale)
    torch.testing.assert_close(y, oracle("embedded_gaussian", theta, phi, g, scale), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dot_product_is_the_equation(shape: tuple[int, ...]) -> None:
    theta, phi, g = tensors(shape)
    torch.testing.assert_close(dot_product(theta, phi, g), oracle("dot_product", theta, phi, g), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_single_precision_stays_close_to_the_equation(pairwise: str) -> None:
    theta, phi, g = tensors((2, 65, 40, 16, 16), torch.float32)
    torch.testing.assert_close(
        PAIRWISE[pairwise](theta, phi, g).double(), oracle(pairwise, theta, phi, g), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("pairwise", "scale"), [("embedded_gaussian", 1.0), ("embedded_gaussian", 0.5), ("dot_product", 1.0)]
)
def test_affinity_is_the_map_of_the_equation(shape: tuple[int, ...], pairwise: str, scale: float) -> None:
    theta, phi, _ = tensors(shape)
    torch.testing.assert_close(affinity(pairwise, theta, phi, scale=scale), oracle_map(pairwise, theta, phi, scale))


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 2, 2, 2), (2, 2, 5, 3, 3), (1, 2, 3, 8, 8)], ids=str)
def test_gradients(pairwise: str, shape: tuple[int, ...]) -> None:
    inputs = [t.requires_grad_() for t in tensors(shape)]
    assert torch.autograd.gradcheck(PAIRWISE[pairwise], inputs)


def backward_names(node: Node | None) -> set[str]:
    """The names of the backward functions from `node` on."""
    if node is None:
        return set()
    return {node.name()}.union(*(backward_names(following) for following, _ in node.next_functions))


def test_fused_attention_runs_on_transposed_inputs() -> None:
    """Channel-first tensors must not send attention down the path that stores the (N, M) map."""
    theta, phi, g = (torch.randn(2, 8, n).transpose(1, 2).requires_grad_() for n in (6, 4, 4))
    y = embedded_gaussian(theta, phi, g)
    assert any("FlashAttention" in name for name in backward_names(y.grad_fn))
    torch.testing.assert_close(
        y.double(), oracle("embedded_gaussian", *(t.detach() for t in (theta, phi, g))), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("n", "m", "d"), [(512, 512, 8), (8, 8, 512)])
def test_dot_product_takes_the_cheaper_order(n: int, m: int, d: int) -> None:
    with FlopCounterMode(display=False) as counter:
        dot_product(torch.ones(1, n, d), torch.ones(1, m, d), torch.ones(1, m, d))
    assert counter.get_total_flops() == 2 * min((n + m) * d * d, 2 * n * m * d)


def test_large_products_do_not_overflow() -> None:
    theta, phi, g = (torch.full((1, 4, 8), 40.0) for _ in range(3))
    torch.testing.assert_close(embedded_gaussian(theta, phi, g), g)


@pytest.mark.parametrize(
    ("theta", "phi", "g"),
    [
        ((2, 5, 4), (2, 3, 5), (2, 3, 4)),
        ((2, 5, 4), (1, 3, 4), (1, 3, 4)),
        ((2, 5, 4), (2, 3, 4), (2, 4, 4)),
        ((2, 5, 4), (2, 0, 4), (2, 0, 4)),
        ((5, 4), (3, 4), (3, 4)),
    ],
)
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_wrong_shapes_are_named(
    pairwise: str, theta: tuple[int, ...], phi: tuple[int, ...], g: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=rf"{pairwise}: expected theta \(B, N, D\).*got ") as error:
        PAIRWISE[pairwise](torch.zeros(theta), torch.zeros(phi), torch.zeros(g))
    assert str(theta) in str(error.value)


def test_affinity_refuses_what_it_does_not_know() -> None:
    theta, phi = torch.zeros(1, 2, 3), torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match=r"unknown pairwise function 'gauss'.*embedded_gaussian, dot_product"):
        affinity("gauss", theta, phi)
    with pytest.raises(ValueError, match="has no scale"):
        affinity("dot_product", theta, phi, scale=0.5)
    with pytest.raises(ValueError, match="expected theta"):
        affinity("dot_product", theta, phi[..., :2])
