"""The block under torch.func, in gradient penalties and under autocast: against the equation in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, func, nn
from torch.utils.checkpoint import checkpoint

from helpers.nonlocal_oracle import awake, block_by_hand
from nlnet import NonLocalBlock, ops
from nlnet.ops.pairwise import algorithms

PAIRWISE = list(ops.PAIRWISE)
HALF = [torch.bfloat16, torch.float16]

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@pytest.fixture(params=["small map", "large map"])
def any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of the size above which no map is stored."""
    if request.param == "large map":
        monkeypatch.setattr(algorithms, "SMALL_MAP", 0)


def network(block: Callable[[Tensor], Tensor], first: nn.Module, last: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: last(nn.functional.softplus(block(first(x)))).square().sum()


def penalty(loss: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor], *, graph: bool) -> list[Tensor]:
    """The gradients of |dL/dx|^2 (R1, WGAN-GP)."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
    grads = torch.autograd.grad(first.square().sum(), [x, *parameters], create_graph=graph, allow_unused=True)
    return [torch.zeros(1) if grad is None else grad.detach() for grad in grads]


@pytest.mark.parametrize("graph", [False, True], ids=["backward", "create_graph"])
@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.usefixtures("any_size")
def test_a_gradient_penalty(pairwise: str, graph: bool) -> None:
    torch.manual_seed(0)
    block = awake(NonLocalBlock(8, 2, pairwise, norm="none", subsample=False)).double()
    first, last = nn.Conv2d(3, 8, 1).double(), nn.Conv2d(8, 1, 1).double()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    parameters = [*first.parameters(), *block.parameters(), *last.parameters()]
    wanted = penalty(network(lambda t: block_by_hand(block, t), first, last), x, parameters, graph=graph)
    found = penalty(network(block, first, last), x, parameters, graph=graph)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    again = penalty(
        lambda t: checkpoint(network(block, first, last), t, use_reentrant=False), x, parameters, graph=graph
    )
    torch.testing.assert_close(again, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.usefixtures("any_size")
def test_gradients_of_each_sample(pairwise: str) -> None:
    """vmap(grad) over a batch is the gradients of the samples one by one."""
    block = awake(NonLocalBlock(8, 2, pairwise, norm="none")).double()
    parameters = {name: p.detach() for name, p in block.named_parameters()}
    x = torch.randn(3, 8, 6, 6, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return func.functional_call(block, parameters, (sample[None],)).square().sum()

    mapped = func.vmap(func.grad(loss), in_dims=(None, 0))(parameters, x)
    for k, sample in enumerate(x):
        block.zero_grad()
        block_by_hand(block, sample[None]).square().sum().backward()
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(mapped[name][k], parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.usefixtures("any_size")
def test_transforms_of_a_block(pairwise: str) -> None:
    block = awake(NonLocalBlock(4, 2, pairwise)).double().eval()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    v = torch.randn_like(x)
    for way in (
        lambda f: func.jvp(f, (x,), (v,))[1],
        lambda f: func.jacrev(f)(x),
        lambda f: func.hessian(lambda t: f(t).sin().sum())(x),
        lambda f: func.jvp(func.grad(lambda t: f(t).sin().sum()), (x,), (v,))[1],
    ):
        torch.testing.assert_close(way(block), way(lambda t: block_by_hand(block, t)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU"))])  # fmt: skip
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.usefixtures("any_size")
def test_autocast(pairwise: str, dtype: torch.dtype, device: str) -> None:
    """A float32 block and a float32 input: the step of a scaled loss is that of float32, as far as the type reaches."""
    torch.manual_seed(0)
    block = awake(NonLocalBlock(16, 2, pairwise)).to(device).eval()
    x = (torch.randn(2, 16, 6, 6, device=device) * 0.5).requires_grad_()
    inputs = [x, *block.parameters()]
    weights = torch.linspace(-1, 1, x.numel(), device=device).view_as(x)
    wanted = torch.autograd.grad((block(x) * weights).sum(), inputs)
    scaler = torch.amp.GradScaler(device, init_scale=64.0)
    with torch.autocast(device, dtype):
        z = block(x)
        loss = (z * weights).sum()
    assert z.dtype == torch.float32
    scaler.scale(loss).backward()
    # every gradient against the largest one: where the true one is zero, its rounding is all there is
    largest = max(float(grad.abs().max()) for grad in wanted)
    for tensor, grad in zip(inputs, wanted, strict=True):
        assert tensor.grad.dtype == torch.float32
        assert float((tensor.grad / 64 - grad).abs().max()) <= 8 * torch.finfo(dtype).eps * largest


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_operations_under_autocast(pairwise: str, dtype: torch.dtype) -> None:
    """Mixed types become the type of autocast, like those of PyTorch's own products; float64 stays what it is."""
    shapes = ((2, 6), (2, 5), (2, 5, 3)) if pairwise == "concatenation" else ((2, 6, 4), (2, 5, 4), (2, 5, 3))
    query, key, value = (torch.randn(shape) for shape in shapes)
    function = ops.PAIRWISE[pairwise]
    exact = function(*(t.to(dtype).double() for t in (query, key, value)))
    for algorithm in ("auto", *function.algorithms):
        if algorithm == "triton":
            continue  # for GPUs
        with torch.autocast("cpu", dtype):
            y = function(query, key, value.to(dtype), algorithm=algorithm)
            whole = function(query.double(), key.double(), value.double(), algorithm=algorithm)
        assert (y.dtype, whole.dtype) == (dtype, torch.float64)
        # rounded once: sums are in float32, whatever autocast does to products
        limit = 1.01 * torch.finfo(dtype).eps if algorithm != "fused" else 4 * torch.finfo(dtype).eps
        assert float((y.double() - exact).norm() / exact.norm()) <= limit


def test_a_sum_beyond_float16_is_finite_under_autocast() -> None:
    theta, phi, g = (torch.full((1, 4096, 1), 30.0) for _ in range(3))
    for algorithm in ops.PAIRWISE["dot_product"].algorithms:
        with torch.autocast("cpu", torch.float16):
            y = ops.dot_product(theta, phi, g, algorithm=algorithm)
        torch.testing.assert_close(y, torch.full_like(y, 27000.0), rtol=1e-3, atol=0)
