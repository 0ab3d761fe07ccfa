"""The criss-cross layer: identity at start, the reach of each round, and the released code's weights."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.networks import check_under_autocast
from nlnet.layers import CrissCrossAttention

SIZES = {2: (4, 5), 3: (2, 3, 4)}


def awake(layer: CrissCrossAttention) -> CrissCrossAttention:
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    return layer


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_a_new_layer_is_the_identity_bit_for_bit(dims: int, training: bool) -> None:
    x = torch.randn(2, 16, *SIZES[dims])
    assert torch.equal(CrissCrossAttention(16, dims).train(training)(x), x)


def reached(layer: CrissCrossAttention, size: tuple[int, ...]) -> Tensor:
    """Which positions the output at the origin depends on."""
    x = torch.randn(1, 4, *size, dtype=torch.float64, requires_grad=True)
    origin = (0, slice(None), *[0] * len(size))
    (gradient,) = torch.autograd.grad(layer(x)[origin].square().sum(), x)
    return gradient[0].abs().sum(dim=0) > 0


@pytest.mark.parametrize(("dims", "recurrence"), [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3)])
def test_each_round_reaches_one_axis_further(dims: int, recurrence: int) -> None:
    size = SIZES[dims]
    steps = sum((torch.arange(length) > 0).long().view(-1, *[1] * (dims - 1 - k)) for k, length in enumerate(size))
    layer = awake(CrissCrossAttention(4, dims, recurrence=recurrence))
    assert torch.equal(reached(layer, size), steps <= recurrence)


def test_two_rounds_are_one_round_twice() -> None:
    one, two = (awake(CrissCrossAttention(8, recurrence=rounds)) for rounds in (1, 2))
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    assert torch.equal(two(x), one(one(x)))


def test_the_parameters_have_the_released_names_and_shapes() -> None:
    shapes = {name: tuple(p.shape) for name, p in CrissCrossAttention(64).state_dict().items()}
    assert shapes == {
        "gamma": (1,),
        "query_conv.weight": (8, 64, 1, 1),
        "query_conv.bias": (8,),
        "key_conv.weight": (8, 64, 1, 1),
        "key_conv.bias": (8,),
        "value_conv.weight": (64, 64, 1, 1),
        "value_conv.bias": (64,),
    }


def mmcv_layer(channels: int) -> nn.Module:
    """mmcv's layer, read from its own file: the lite wheel lacks the compiled part that its package asks for."""
    mmcv = pytest.importorskip("mmcv", reason="mmcv is installed by `make peers`")
    path = Path(mmcv.__file__).parent / "ops" / "cc_attention.py"
    spec = importlib.util.spec_from_file_location("mmcv_cc_attention", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CrissCrossAttention(channels)


def test_it_agrees_with_mmcv() -> None:
    theirs = mmcv_layer(16).double()
    ours = awake(CrissCrossAttention(16, recurrence=1))
    weights = ours.state_dict()
    weights["gamma.scale"] = weights.pop("gamma")[0]
    theirs.load_state_dict(weights)
    x = torch.randn(2, 16, 4, 5, dtype=torch.float64)
    results = []
    for layer in (ours, theirs):
        y = layer(t := x.clone().requires_grad_())
        results.append(
            (y, *torch.autograd.grad(y.square().sum(), [t, *(p for _, p in sorted(layer.named_parameters()))]))
        )
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got.reshape(-1), expected.reshape(-1), rtol=1e-9, atol=1e-9)


def test_it_runs_under_autocast() -> None:
    check_under_autocast(awake(CrissCrossAttention(16)).float(), torch.randn(2, 16, 4, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 1}, "dims must be 2 or 3, got 1"),
        ({"inner_channels": 0}, "needs at least one channel everywhere, got 8, 0"),
        ({"recurrence": 0}, "recurrence must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrissCrossAttention(8, **arguments)


@pytest.mark.parametrize("shape", [(2, 8, 2, 4, 4), (2, 4, 4, 4)])
def test_a_wrong_input_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"CrissCrossAttention: expected x \(B, 8, H, W\) with no length 0, got"):
        CrissCrossAttention(8)(torch.zeros(shape))
