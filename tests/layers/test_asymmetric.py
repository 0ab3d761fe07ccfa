"""The asymmetric blocks: no attention at the start, the equation afterwards, no leak between the clips of a batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks import check_under_autocast
from nlnet.layers import AFNB, APNB

SIZES = {1: (9,), 2: (6, 5), 3: (2, 5, 4)}
ADAPTIVE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def awake(block: nn.Module) -> nn.Module:
    """Gives the block weights and running statistics with which every part of it matters."""
    generator = torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    for name, buffer in block.double().named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return block.eval()


def attend(block: nn.Module, query: Tensor, key: Tensor, value: Tensor, dims: int) -> Tensor:
    """W y with pooled keys, the map stored."""
    pooled = [torch.cat([ADAPTIVE[dims](t, k).flatten(2) for k in (1, 3, 6, 8)], dim=2) for t in (key, value)]
    logits = query.flatten(2).transpose(1, 2) @ pooled[0] / query.shape[1] ** 0.5
    y = (logits.softmax(dim=2) @ pooled[1].transpose(1, 2)).transpose(1, 2)
    return block.out(y.unflatten(2, query.shape[2:]))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_a_new_block_attends_to_nothing_bit_for_bit(dims: int, training: bool) -> None:
    x, low = torch.randn(3, 8, *SIZES[dims]), torch.randn(3, 4, *(2 * n for n in SIZES[dims]))
    for block, inputs in ((APNB(8, dims, dropout=0), (x,)), (AFNB(4, 8, dims, dropout=0), (low, x))):
        block.train(training)
        assert torch.equal(block(*inputs), block.fuse(torch.cat([torch.zeros_like(x), x], dim=1)))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_apnb_is_the_equation(dims: int) -> None:
    block = awake(APNB(8, dims, out_channels=6, value_channels=3))
    x = torch.randn(2, 8, *SIZES[dims], dtype=torch.float64)
    context = attend(block, block.key(x), block.key(x), block.value(x), dims)
    expected = block.fuse(torch.cat([context, x], dim=1))
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    assert expected.shape == (2, 6, *SIZES[dims])
    assert expected.min() == 0


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_afnb_is_the_equation_for_levels_of_unlike_sizes(dims: int) -> None:
    block = awake(AFNB(4, 16, dims, value_channels=3))
    high = torch.randn(2, 16, *SIZES[dims], dtype=torch.float64)
    low = torch.randn(2, 4, *(2 * n for n in SIZES[dims]), dtype=torch.float64)
    context = attend(block, block.query(high), block.key(low), block.value(low), dims)
    expected = block.fuse(torch.cat([context, high], dim=1))
    torch.testing.assert_close(block(low, high), expected, rtol=1e-10, atol=1e-10)
    assert expected.min() < 0


def test_apnb_shares_key_and_query_and_afnb_does_not() -> None:
    embeddings = {
        type(block): {name.split(".")[0] for name, _ in block.named_parameters()} for block in (APNB(8), AFNB(8, 8))
    }
    assert embeddings == {APNB: {"key", "value", "out", "fuse"}, AFNB: {"query", "key", "value", "out", "fuse"}}


def test_every_parameter_learns_once_w_opens() -> None:
    block = awake(APNB(8))
    block(torch.randn(2, 8, 6, 5, dtype=torch.float64)).square().sum().backward()
    assert [name for name, p in block.named_parameters() if not p.grad.any()] == []


def test_no_gradient_crosses_from_clip_to_clip() -> None:
    block = awake(AFNB(4, 8))
    low = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    high = torch.randn(2, 8, 3, 4, dtype=torch.float64, requires_grad=True)
    for gradient in torch.autograd.grad(block(low, high)[0].square().sum(), [low, high]):
        assert gradient[0].any()
        assert not gradient[1].any()


def test_it_runs_under_autocast() -> None:
    check_under_autocast(awake(APNB(8)).float(), torch.randn(2, 8, 6, 5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: APNB(8, 4), "APNB: dims must be 1, 2 or 3, got 4"),
        (lambda: APNB(8, key_channels=0), "APNB: needs at least one channel"),
        (lambda: AFNB(0, 8), "AFNB: needs at least one channel"),
        (
            lambda: APNB(8)(torch.zeros(2, 4, 6, 5)),
            r"APNB: expected x \(B, 8, H, W\) with no length 0, got \(2, 4, 6, 5\)",
        ),
        (
            lambda: AFNB(4, 8, 3)(torch.zeros(2, 4, 2, 6, 5), torch.zeros(2, 8, 6, 5)),
            r"AFNB: expected high \(B, 8, T, H, W\) with no length 0, got \(2, 8, 6, 5\)",
        ),
    ],
)
def test_mistakes_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
