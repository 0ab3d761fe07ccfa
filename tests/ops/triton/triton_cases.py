"""The Triton kernels against the equation: test_attention.py runs this file in a process of its own.

With TRITON_INTERPRET=1 they run in Triton's interpreter on the CPU, else compiled on a GPU.
"""

import sys

import pytest
import torch
from torch import Tensor

from nlnet.ops.triton import attention as triton_attention
from nlnet.ops.triton.attention import INTERPRETED, Tiles, attention, supports

TRITON_WAS_IMPORTED = "triton" in sys.modules

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ON_GPU = pytest.mark.skipif(INTERPRETED, reason="sizes for a GPU")

# (B, N, M, D, E), for tiles of 16 x 16 x 16: ends inside them, D unlike E; one query; one key, one channel; whole tiles
SHAPES = [(2, 20, 21, 24, 40), (1, 1, 5, 3, 4), (2, 7, 1, 1, 2)]
SHAPES += [pytest.param(shape, marks=pytest.mark.full) for shape in [(1, 16, 32, 16, 32), (1, 18, 17, 80, 80)]]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loop of the kernels runs more than once on small shapes."""
    tiles = (Tiles(rows=16, keys=16, depth=16, warps=4, stages=2),)
    for table in (triton_attention.SCORE_TILES, triton_attention.GRADIENT_TILES):
        for itemsize in table:
            monkeypatch.setitem(table, itemsize, tiles)


def tensors(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    """query, key, value and the gradient of the output."""
    b, n, m, d, e = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = (b, n, d), (b, m, d), (b, m, e), (b, n, e)
    query, key, value, grad = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return [t.to(DEVICE, dtype) for t in (query * scale, key, value, grad)]


def oracle(query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> list[Tensor]:
    """The equation and its derivatives by hand, in float64: output, then the gradients of query, key and value."""
    query, key, value, grad = (t.double() for t in (query, key, value, grad))
    scores = torch.einsum("bnd,bmd->bnm", query, key)
    weights = 1 / (scores[:, :, None, :] - scores[:, :, :, None]).exp().sum(-1)  # p_ij = 1 / sum_k exp(s_ik - s_ij)
    slopes = torch.einsum("bne,bme->bnm", grad, value)
    slopes = weights * (slopes - (weights * slopes).sum(-1, keepdim=True))
    return [
        torch.einsum("bnm,bme->bne", weights, value),
        torch.einsum("bnm,bmd->bnd", slopes, key),
        torch.einsum("bnm,bnd->bmd", slopes, query),
        torch.einsum("bnm,bne->bme", weights, grad),
    ]


def materialized(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.transpose(1, 2)).softmax(-1) @ value


def with_gradients(form, query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """A form's output, then the gradients of query, key and value."""
    inputs = [t.detach().requires_grad_() for t in (query, key, value)]
    out = form(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def error(got: Tensor, wanted: Tensor) -> float:
    """Norm of the error over the norm of the oracle; absolute where that is 0."""
    return float((got.double() - wanted).norm() / (wanted.norm() or 1))


def rounding(query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> float:
    """The norm of a gradient of the scores whose parts cancel but for a rounding each.

    On a GPU they cancel exactly, since they are summed in one order. In the interpreter the order is NumPy's own, which
    differs between processors.
    """
    if not INTERPRETED:
        return 0.0
    products = (grad.abs().double() @ value.abs().double().mT).max() * max(query.abs().max(), key.abs().max())
    return float(4 * torch.finfo(query.dtype).eps * products * query.numel() ** 0.5)


def assert_exact(inputs: list[Tensor], slack: float = 0.0) -> None:
    """No part is worse than 3 times the materialized form in the same dtype, 4 roundings, and the slack, absolute."""
    results, plain = with_gradients(attention, *inputs), with_gradients(materialized, *inputs)
    for name, got, other, wanted in zip(
        ("output", "query", "key", "value"), results, plain, oracle(*inputs), strict=True
    ):
        assert got.dtype == inputs[0].dtype
        assert got.shape == wanted.shape
        limit = 3 * error(other, wanted) + 4 * torch.finfo(got.dtype).eps
        assert error(got, wanted) <= limit + slack / (float(wanted.norm()) or 1), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("small_tiles")
def test_output_and_gradients_are_the_equations(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_exact(tensors(shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_default_tiles_on_a_shape_far_smaller_than_they_are(dtype: torch.dtype) -> None:
    assert_exact(tensors((2, 20, 9, 70, 5), dtype))


@ON_GPU
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 784, 196, 512, 512), (1, 333, 517, 320, 200), (1, 200, 300, 256, 512)], ids=str)
def test_default_tiles(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_exact(tensors(shape, dtype, scale=shape[3] ** -0.5))


@pytest.mark.parametrize("strip_bytes", [1, 1600], ids="{} bytes".format)
@pytest.mark.usefixtures("small_tiles")
def test_strips_of_rows_and_groups_of_clips(strip_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clip by clip, 4 rows a strip; two clips and one, their rows in several strips, the last of them short."""
    monkeypatch.setattr(triton_attention, "STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(triton_attention, "STRIP_ROWS", 5)
    monkeypatch.setattr(triton_attention, "ROW_STEP", 4)
    assert_exact(tensors((3, 11, 18, 5, 6), torch.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("small_tiles")
def test_large_logits_stay_finite(dtype: torch.dtype) -> None:
    inputs = tensors((1, 19, 20, 20, 8), dtype, scale=1e3)
    assert all(result.isfinite().all() for result in with_gradients(attention, *inputs))
    assert_exact(inputs, rounding(*inputs))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("small_tiles")
def test_a_query_that_attends_to_one_key_copies_its_value_and_scores_have_no_gradient(dtype: torch.dtype) -> None:
    _, _, value, grad = tensors((1, 20, 20, 20, 40), dtype)
    key = torch.eye(20, device=DEVICE, dtype=dtype)[None]
    out, query_grad, key_grad, value_grad = with_gradients(attention, 1e3 * key, key, value, grad)
    assert torch.equal(out, value)
    assert torch.equal(value_grad, grad)
    limit = rounding(1e3 * key, key, value, grad)
    assert query_grad.norm() <= limit
    assert key_grad.norm() <= limit


@pytest.mark.usefixtures("small_tiles")
def test_any_strides() -> None:
    query, key, value, grad = tensors((2, 9, 5, 17, 6), torch.float32)
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (query, key, value, grad)]
    for got, wanted in zip(
        with_gradients(attention, *strided), with_gradients(attention, query, key, value, grad), strict=True
    ):
        assert torch.equal(got, wanted)
    ones = torch.ones(1, 1, 1, device=DEVICE).expand_as(grad)
    for got, wanted in zip(
        with_gradients(attention, query, key, value, ones),
        with_gradients(attention, query, key, value, ones.contiguous()),
        strict=True,
    ):
        assert torch.equal(got, wanted)


@pytest.mark.usefixtures("small_tiles")
def test_second_derivative_is_the_plain_forms() -> None:
    def second(form, dtype: torch.dtype) -> list[Tensor]:  # type: ignore[no-untyped-def]
        query, key, value, grad = (t.to(dtype).requires_grad_() for t in tensors((1, 6, 5, 3, 4), torch.float32))
        first = torch.autograd.grad(form(query, key, value), (query, key, value), grad, create_graph=True)
        return list(torch.autograd.grad(sum((t**3).sum() for t in first), (query, key, value, grad)))

    for got, wanted in zip(second(attention, torch.float32), second(materialized, torch.float64), strict=True):
        assert error(got, wanted) < 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own rules for forward mode
@pytest.mark.usefixtures("small_tiles")
def test_other_derivatives() -> None:
    """All three from one input, and something that is not linear after them; single precision against double."""
    query, key, value, _ = tensors((1, 3, 4, 2, 3), torch.float32)

    def network(form, dtype: torch.dtype):  # type: ignore[no-untyped-def]
        q, k, v = (t.double() for t in (query, key, value))

        def loss(s: Tensor) -> Tensor:
            inputs = q * s[0].cos(), k + s[1] * k.sin(), v * s[2]
            return form(*(t.to(dtype) for t in inputs)).double().sin().square().sum()

        return loss

    s = torch.tensor([0.3, 0.7, 0.2], dtype=torch.float64, device=DEVICE)
    mine, exact = network(attention, torch.float32), network(materialized, torch.float64)
    for way in (
        lambda f: torch.func.grad(lambda t: torch.func.grad(f)(t).square().sum())(s),
        lambda f: torch.func.jvp(f, (s,), (s.cos(),))[1],
        lambda f: torch.func.vmap(torch.func.grad(f))(torch.stack([s, s.cos()])),
    ):
        assert error(way(mine), way(exact)) < 1e-6


@pytest.mark.usefixtures("small_tiles")
def test_registered_as_the_compiler_expects() -> None:
    query, key, value, grad = tensors((2, 5, 4, 3, 6), torch.float32)
    inputs = (query, key, value)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(triton_attention._forward, inputs, test_utils=checks)
    out, lse = (t.detach() for t in triton_attention._forward(*inputs))
    torch.library.opcheck(triton_attention._backward, (grad, *inputs, out, lse), test_utils=checks)


@pytest.mark.usefixtures("small_tiles")
def test_compiles_to_one_graph() -> None:
    def module(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(query * 2, key, value) if supports(query, key, value) else query

    inputs = tensors((1, 18, 5, 3, 4), torch.float32)
    backend = "aot_eager" if INTERPRETED else "inductor"
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for got, wanted in zip(with_gradients(compiled, *inputs), with_gradients(module, *inputs), strict=True):
        assert torch.equal(got, wanted)


def test_import_leaves_triton_alone() -> None:
    assert not TRITON_WAS_IMPORTED


@ON_GPU
def test_memory_is_linear() -> None:
    query, key, value, grad = tensors((4, 12544, 3136, 512, 512), torch.bfloat16, scale=0.05)
    results = 6 * query.nbytes  # the output, its gradient's copy, the gradients of three, float32 sums of two
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with_gradients(attention, query, key, value, grad)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= triton_attention.STRIP_BYTES + results
