"""The block: the identity at start, the equation afterwards, and no leak between the clips of a batch."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from helpers.nonlocal_oracle import awake, block_by_hand
from nlnet import NonLocalBlock, ops
from nlnet.layers import FrozenAffine

SIZES = {1: (9,), 2: (6, 5), 3: (4, 6, 5)}
PAIRWISE = list(ops.PAIRWISE)


def image(dims: int, channels: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *SIZES[dims], dtype=torch.float64)


def gradients(output: Tensor, x: Tensor, block: nn.Module) -> list[Tensor]:
    """Of a weighted sum of the output; W's bias last, for batch norm in training takes it out."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return list(torch.autograd.grad((output * weights).sum(), [x, *block.parameters()]))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("norm", ["batch", "affine", "none"])
def test_a_new_block_is_the_identity_bit_for_bit(dims: int, pairwise: str, norm: str) -> None:
    for preset, training in itertools.product(("official", "paper", "mmcv"), (True, False)):
        block = NonLocalBlock(6, dims, pairwise, preset=preset, norm=norm).double().train(training)
        x = image(dims)
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("order", ["before", "after", None])
def test_a_trained_block_and_its_gradients_are_the_equation(dims: int, pairwise: str, order: str | None) -> None:
    for norm, scale in (("batch", True), ("affine", False), ("none", None)):
        options = {"subsample": order is not None, "subsample_order": order, "scale": scale, "norm": norm}
        block = awake(NonLocalBlock(6, dims, pairwise, **options)).double().eval()
        x = image(dims).requires_grad_()
        z, expected = block(x), block_by_hand(block, x)
        torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients(z, x, block), gradients(expected, x, block), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("norm", ["batch", "affine", "none"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_the_layout_in_memory_changes_nothing_and_is_kept(layout: torch.memory_format, norm: str, order: str) -> None:
    block = awake(NonLocalBlock(6, norm=norm, subsample_order=order)).double().eval()
    x = image(3)
    y = block(x.contiguous(memory_format=layout))
    torch.testing.assert_close(y, block_by_hand(block, x), rtol=1e-10, atol=1e-10)
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("cut", [slice(None, None, 2), slice(1, 7)])
def test_a_view_that_is_in_no_layout(cut: slice) -> None:
    block = awake(NonLocalBlock(6)).double().eval()
    wide = torch.randn(2, 12, 8, 9, 6, dtype=torch.float64).transpose(3, 4)
    x = wide[:, cut, ::2]
    assert not x.is_contiguous()
    torch.testing.assert_close(block(x), block_by_hand(block, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 4), (2, 4, 1), (1, 3, 3)])
def test_a_dimension_too_small_to_pool_is_left_alone(size: tuple[int, ...]) -> None:
    t, h, w = size
    block = NonLocalBlock(4).eval()
    theta, phi, g = block.embed(torch.randn(2, 4, *size))
    assert block.key_size(size) == (t, max(h // 2, 1), max(w // 2, 1))
    keys = t * max(h // 2, 1) * max(w // 2, 1)
    assert theta.shape == (2, t * h * w, 2)
    assert phi.shape == g.shape == (2, keys, 2)


def test_what_the_pairwise_function_sees() -> None:
    x = image(2)
    shapes = {name: [tuple(t.shape) for t in NonLocalBlock(6, 2, name).double().embed(x)] for name in PAIRWISE}
    assert shapes == {
        "gaussian": [(2, 30, 6), (2, 6, 6), (2, 6, 3)],
        "embedded_gaussian": [(2, 30, 3), (2, 6, 3), (2, 6, 3)],
        "dot_product": [(2, 30, 3), (2, 6, 3), (2, 6, 3)],
        "concatenation": [(2, 30), (2, 6), (2, 6, 3)],
    }


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("axes", ["spacetime", "space", "time"])
def test_no_gradient_crosses_from_clip_to_clip(pairwise: str, axes: str) -> None:
    block = awake(NonLocalBlock(4, 3, pairwise, axes=axes)).eval()
    x = torch.randn(3, 4, 2, 4, 4, requires_grad=True)
    for clip in range(3):
        (gradient,) = torch.autograd.grad(block(x)[clip].square().sum(), x)
        assert gradient[clip].abs().min() > 0
        assert not gradient[[other for other in range(3) if other != clip]].any()


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_every_parameter_learns_once_the_norm_opens(pairwise: str) -> None:
    block = awake(NonLocalBlock(4, 2, pairwise)).double()
    block(image(2, channels=4, batch=3)).square().mean().backward()
    # a constant added before the batch norm is taken out again, so the bias of W cannot have a gradient
    silent = {name for name, p in block.named_parameters() if p.grad.abs().max() < 1e-9}
    # the softmax's rows sum to one, so g's bias is such a constant too; one added to every phi moves all logits alike
    softmax = {"gaussian": {"g.bias"}, "embedded_gaussian": {"g.bias", "phi.bias"}}
    assert silent == {"out.bias"} | softmax.get(pairwise, set())


def test_an_empty_batch_passes_and_every_parameter_has_a_gradient() -> None:
    block = awake(NonLocalBlock(4, 2))
    before = {name: buffer.clone() for name, buffer in block.named_buffers()}
    z = block(torch.zeros(0, 4, 7, 7, requires_grad=True))
    z.sum().backward()
    assert z.shape == (0, 4, 7, 7)
    assert all(not p.grad.any() for p in block.parameters())
    assert all(torch.equal(buffer, before[name]) for name, buffer in block.named_buffers())


@pytest.mark.parametrize(("channels", "parameters"), [(512, 526_592), (1024, 2_101_760)])
def test_the_parameter_count_is_the_released_one(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        block = NonLocalBlock(channels)
    assert sum(p.numel() for p in block.parameters()) == parameters


def test_the_names_in_the_state_dict() -> None:
    norm = ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    convolutions = [f"{c}.{part}" for c in ("theta", "phi", "g", "out") for part in ("weight", "bias")]
    assert list(NonLocalBlock(4).state_dict()) == convolutions + norm
    assert list(NonLocalBlock(4, pairwise="gaussian").state_dict()) == convolutions[4:] + norm
    block = NonLocalBlock(4, pairwise="concatenation", norm="affine")
    assert list(block.state_dict()) == [*convolutions, "concat_project.weight", "norm.weight", "norm.bias"]
    assert block.concat_project.weight.shape == (1, 4, 1, 1)


def test_a_frozen_affine_is_the_batch_norm_it_came_from() -> None:
    norm = nn.BatchNorm3d(5).double().train()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm(3 * torch.randn(4, 5, 2, 3, 3, dtype=torch.float64) + 2)
    affine = FrozenAffine.from_batch_norm(norm)
    x = torch.randn(2, 5, 2, 3, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(affine.train()(x), norm.eval()(x), rtol=1e-12, atol=1e-12)
    assert affine(x).stride() == x.stride()
    assert list(affine.parameters()) == []
    with pytest.raises(ValueError, match="no running statistics"):
        FrozenAffine.from_batch_norm(nn.BatchNorm1d(3, track_running_stats=False))


def test_autocast_computes_in_half_and_returns_the_sum_in_full_precision() -> None:
    block, x = awake(NonLocalBlock(8, 2)).eval(), torch.randn(2, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        z = block(x)
    assert z.dtype == torch.float32
    assert 0 < (z - block(x)).norm() / (block(x) - x).norm() < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 4}, "dims must be 1, 2 or 3, got 4"),
        ({"pairwise": "gauss"}, "unknown pairwise 'gauss'; nearest: gaussian"),
        ({"norm": "layer"}, "unknown norm 'layer'; known: affine, batch, none"),
        ({"inner_channels": 0}, "at least one channel"),
        ({"preset": "offical"}, "unknown preset 'offical'; nearest: official"),
        ({"axes": "spacetim"}, "unknown axes 'spacetim'; nearest: spacetime"),
        ({"init": "he"}, "unknown init 'he'"),
        ({"subsample_order": "behind"}, "unknown subsample_order 'behind'"),
        ({"zero_init": "gamma"}, "unknown zero_init 'gamma'"),
        ({"zero_init": "norm", "norm": "affine"}, "zero_init='norm' needs norm='batch'"),
        ({"dims": 2, "axes": "time"}, "for dims=3, got dims=2"),
        ({"axes": "space", "temporal_group": 4}, "with axes='spacetime'"),
        ({"temporal_group": 0}, "temporal_group must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonLocalBlock(8, **arguments)


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 4, 2, 4, 4), (2, 8, 2, 0, 4), (2, 8, 0, 4, 4)])
def test_a_wrong_input_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected x \(B, 8, T, H, W\) with no length 0, got"):
        NonLocalBlock(8)(torch.zeros(shape))


def test_a_wrong_type_and_a_wrong_number_of_frames_are_named() -> None:
    with pytest.raises(ValueError, match=r"in torch.float32 like its weights, got torch.float64"):
        NonLocalBlock(8)(torch.zeros(1, 8, 2, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"T a multiple of temporal_group=4, got \(1, 8, 6, 4, 4\)"):
        NonLocalBlock(8, temporal_group=4)(torch.zeros(1, 8, 6, 4, 4))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=["default", "channels last"])
@pytest.mark.parametrize("preset", ["official", "paper", "mmcv"])
def test_the_dot_products_sum_may_go_into_the_last_convolution(preset, layout, monkeypatch):
    """W_z (theta A) = (W_z A) theta, with the same gradients."""
    torch.manual_seed(0)
    block = NonLocalBlock(6, pairwise="dot_product", preset=preset, zero_init="none").double()
    x = torch.randn(2, 6, 3, 8, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn_like(x)

    def results():
        out = block(x)
        return out, *torch.autograd.grad(out, [x, *block.parameters()], upstream)

    query, key, _ = block.embed(x)
    assert block._sums_first(query, key)
    assert not block._sums_first(query.half(), key.half())
    folded = results()
    monkeypatch.setattr(block, "_sums_first", lambda *_: False)
    for got, wanted in zip(folded, results(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    assert folded[0].is_contiguous(memory_format=layout)
