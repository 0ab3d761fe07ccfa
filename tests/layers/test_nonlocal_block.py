"""The block: the identity at start, the equation afterwards, and no leak between the clips of a batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet import NonLocalBlock, ops

SIZES = {1: (9,), 2: (6, 5), 3: (3, 6, 5)}
PAIRWISE = list(ops.PAIRWISE)


def awake(block: NonLocalBlock) -> NonLocalBlock:
    """Gives the block weights with which every part of it matters."""
    generator = torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter) * 0.5
    for name, buffer in block.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return block


def by_hand(block: NonLocalBlock, x: Tensor) -> Tensor:
    """z = x + BN(W y), with 1x1x1 convolutions as matrices and the pairwise map stored."""

    def convolve(conv: nn.Module, positions_BNC: Tensor) -> Tensor:
        return positions_BNC @ conv.weight.flatten(1).T + conv.bias

    def positions(t: Tensor) -> Tensor:
        return t.flatten(2).transpose(1, 2)

    pool = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}[block.dims]
    pooled = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[block.dims](x, pool) if block.subsample else x
    theta, phi, g = (
        convolve(block.theta, positions(x)),
        *(convolve(c, positions(pooled)) for c in (block.phi, block.g)),
    )
    logits = theta @ phi.transpose(1, 2)
    if block.pairwise == "embedded_gaussian":
        weights = (block.scale * logits).exp()
        weights = weights / weights.sum(2, keepdim=True)
    else:
        weights = logits / phi.shape[1]
    y = convolve(block.out, weights @ g)
    if isinstance(block.norm, nn.modules.batchnorm._BatchNorm):
        norm = block.norm
        y = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_a_new_block_is_the_identity_bit_for_bit(dims: int, pairwise: str, norm: str, training: bool) -> None:
    block = NonLocalBlock(8, dims, pairwise, norm=norm).train(training)
    x = torch.randn(2, 8, *SIZES[dims])
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("subsample", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_a_trained_block_is_the_equation(dims: int, pairwise: str, norm: str, subsample: bool, scale: bool) -> None:
    block = awake(NonLocalBlock(6, dims, pairwise, subsample=subsample, scale=scale, norm=norm)).double().eval()
    x = torch.randn(2, 6, *SIZES[dims], dtype=torch.float64)
    torch.testing.assert_close(block(x), by_hand(block, x), rtol=1e-10, atol=1e-10)


def test_the_scale_is_that_of_the_inner_channels() -> None:
    assert NonLocalBlock(32).scale == 16**-0.5
    assert NonLocalBlock(32, inner_channels=4).scale == 0.5
    assert NonLocalBlock(32, scale=False).scale == 1
    assert NonLocalBlock(32, pairwise="dot_product").scale == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_layout_in_memory_changes_nothing_and_is_kept(layout: torch.memory_format) -> None:
    block = awake(NonLocalBlock(6)).double().eval()
    x = torch.randn(2, 6, 3, 6, 5, dtype=torch.float64)
    y = block(x.contiguous(memory_format=layout))
    torch.testing.assert_close(y, by_hand(block, x), rtol=1e-10, atol=1e-10)
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 4), (2, 4, 1), (1, 3, 3)])
def test_a_dimension_too_small_to_pool_is_left_alone(size: tuple[int, ...]) -> None:
    t, h, w = size
    block = NonLocalBlock(4).eval()
    theta, phi, g = block.embed(torch.randn(2, 4, *size))
    keys = t * max(h // 2, 1) * max(w // 2, 1)
    assert theta.shape == (2, t * h * w, 2)
    assert phi.shape == g.shape == (2, keys, 2)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_no_gradient_crosses_from_clip_to_clip(pairwise: str) -> None:
    block = awake(NonLocalBlock(4, 3, pairwise)).eval()
    x = torch.randn(3, 4, 2, 4, 4, requires_grad=True)
    for clip in range(3):
        (gradient,) = torch.autograd.grad(block(x)[clip].square().sum(), x)
        assert gradient[clip].abs().min() > 0
        assert not gradient[[other for other in range(3) if other != clip]].any()


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_every_parameter_learns_once_the_norm_opens(pairwise: str) -> None:
    block = awake(NonLocalBlock(4, 2, pairwise))
    block(torch.randn(3, 4, 4, 4)).square().mean().backward()
    # a constant added before the batch norm is taken out again, so the bias of W cannot have a gradient
    silent = {name for name, p in block.named_parameters() if p.grad.abs().max() < 1e-6}
    # one added to every phi moves all logits of a query alike, and the softmax with it not at all
    assert silent == ({"out.bias", "phi.bias"} if pairwise == "embedded_gaussian" else {"out.bias"}) | silent & {
        "g.bias"
    }


@pytest.mark.parametrize(("channels", "parameters"), [(512, 526_592), (1024, 2_101_760)])
def test_the_parameter_count_is_the_released_one(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        block = NonLocalBlock(channels)
    assert sum(p.numel() for p in block.parameters()) == parameters


def test_initial_weights() -> None:
    block = NonLocalBlock(128)
    for conv in (block.theta, block.phi, block.g, block.out):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not conv.bias.any()
    assert not block.norm.weight.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 4}, "dims must be 1, 2 or 3, got 4"),
        ({"pairwise": "gauss"}, "unknown pairwise 'gauss'"),
        ({"norm": "layer"}, "norm must be"),
        ({"inner_channels": 0}, "at least one channel"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonLocalBlock(8, **arguments)


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 4, 2, 4, 4)])
def test_a_wrong_input_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected x \(B, 8, T, H, W\), got"):
        NonLocalBlock(8)(torch.zeros(shape))
