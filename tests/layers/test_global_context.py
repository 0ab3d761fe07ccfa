"""The global context block: identity at start, and the released code's weights and results."""

import pytest
import torch
from torch import Tensor

from helpers.networks import check_under_autocast
from nlnet.layers import GlobalContextBlock

FUSIONS = [("channel_add",), ("channel_mul",), ("channel_add", "channel_mul")]
SIZES = {1: (7,), 2: (4, 5), 3: (2, 4, 3)}


def awake(block: GlobalContextBlock) -> GlobalContextBlock:
    generator = torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return block


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["att", "avg"])
@pytest.mark.parametrize("training", [True, False])
def test_a_new_block_is_the_identity_bit_for_bit(dims: int, pooling: str, training: bool) -> None:
    x = torch.randn(2, 16, *SIZES[dims])
    assert torch.equal(GlobalContextBlock(16, dims, pooling=pooling).train(training)(x), x)


@pytest.mark.parametrize("fusion", FUSIONS[1:])
def test_a_new_block_that_multiplies_halves_its_input(fusion: tuple[str, ...]) -> None:
    x = torch.randn(2, 16, 4, 5)
    assert torch.equal(GlobalContextBlock(16, fusion=fusion)(x), x / 2)


def results(block: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """The output and all gradients, those of the parameters by name."""
    y = block(x := x.clone().requires_grad_())
    return [y, *torch.autograd.grad(y.square().sum(), [x, *(p for _, p in sorted(block.named_parameters()))])]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pooling", ["att", "avg"])
@pytest.mark.parametrize("ratio", [1 / 16, 1 / 4])
def test_it_agrees_with_mmcv_and_takes_its_weights(fusion: tuple[str, ...], pooling: str, ratio: float) -> None:
    module = pytest.importorskip("mmcv.cnn.bricks.context_block", reason="mmcv is installed by `make peers`")
    theirs = module.ContextBlock(64, ratio, pooling, fusion).double()
    ours = GlobalContextBlock(64, ratio=ratio, pooling=pooling, fusion=fusion).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(awake(ours).state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 64, 4, 5, dtype=torch.float64)
    for got, expected in zip(results(ours, x), results(theirs, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_the_parameters_have_the_released_names_and_shapes() -> None:
    block = GlobalContextBlock(64, ratio=1 / 4)
    assert {name: tuple(p.shape) for name, p in block.state_dict().items()} == {
        "conv_mask.weight": (1, 64, 1, 1),
        "conv_mask.bias": (1,),
        "channel_add_conv.0.weight": (16, 64, 1, 1),
        "channel_add_conv.0.bias": (16,),
        "channel_add_conv.1.weight": (16, 1, 1),
        "channel_add_conv.1.bias": (16, 1, 1),
        "channel_add_conv.3.weight": (64, 16, 1, 1),
        "channel_add_conv.3.bias": (64,),
    }


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_a_video_is_an_image_of_all_its_frames(fusion: tuple[str, ...], pooling: str) -> None:
    """The block knows no neighbors, so T frames of H x W are one image of T H x W."""
    image = awake(GlobalContextBlock(16, 2, pooling=pooling, fusion=fusion))
    video = GlobalContextBlock(16, 3, pooling=pooling, fusion=fusion).double()
    video.load_state_dict({k: v[..., None] if v.ndim > 1 else v for k, v in image.state_dict().items()})
    x = torch.randn(2, 16, 2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(video(x), image(x.flatten(2, 3)).view_as(x), rtol=1e-12, atol=1e-12)


def test_no_gradient_crosses_from_clip_to_clip() -> None:
    block = awake(GlobalContextBlock(16))
    x = torch.randn(2, 16, 4, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0].square().sum(), x)
    assert gradient[0].abs().min() > 0
    assert not gradient[1].any()


def test_it_runs_under_autocast() -> None:
    check_under_autocast(awake(GlobalContextBlock(16, fusion=FUSIONS[2])).float(), torch.randn(2, 16, 4, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 4}, "dims must be 1, 2 or 3, got 4"),
        ({"pooling": "max"}, "pooling must be 'att' or 'avg', got 'max'"),
        ({"fusion": ()}, "fusion must hold"),
        ({"fusion": "channel_add"}, "fusion must hold"),
        ({"fusion": ("add",)}, "fusion must hold"),
        ({"ratio": 1 / 32}, "16 channels at a ratio of 0.03125 leave none"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GlobalContextBlock(16, **arguments)


@pytest.mark.parametrize("shape", [(2, 16, 2, 4, 4), (2, 8, 4, 4), (2, 16, 0, 4)])
def test_a_wrong_input_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"GlobalContextBlock: expected x \(B, 16, H, W\) with no length 0, got"):
        GlobalContextBlock(16)(torch.zeros(shape))
