"""Windowed attention against full attention with a mask, in float64."""

import pytest
import torch
from torch import Tensor

from nlnet.ops import embedded_gaussian, windowed
from nlnet.ops.windowed import BLOCK

# (H, W), window: less than a block and several, one row, windows of one position, up to the image's size and beyond it
CASES = [
    *(((5, 7), w) for w in (1, 3, 5, 13)),
    *(((1, 40), w) for w in (3, 35)),
    *(((37, 20), w) for w in (3, 9, 35, 39, 73)),
    ((BLOCK, 2 * BLOCK), 5),
    ((BLOCK + 1, 2 * BLOCK + 1), 35),
    ((1, 1), 35),
]


def tensors(size: tuple[int, int], d: int = 3, e: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    return [torch.randn(2, c, *size, generator=generator, dtype=torch.float64).to(dtype) for c in (d, d, e)]


def masked_attention(theta: Tensor, phi: Tensor, g: Tensor, window: int) -> Tensor:
    height, width = g.shape[2:]
    y, x = (t.flatten() for t in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    near = ((y[:, None] - y).abs() <= window // 2) & ((x[:, None] - x).abs() <= window // 2)
    f_BNN = (theta.flatten(2).mT @ phi.flatten(2)).exp() * near
    return (g.flatten(2) @ (f_BNN / f_BNN.sum(dim=2, keepdim=True)).mT).view_as(g)


@pytest.mark.parametrize(("size", "window"), CASES, ids=str)
def test_it_is_attention_within_the_window(size: tuple[int, int], window: int) -> None:
    theta, phi, g = tensors(size)
    y = windowed(theta, phi, g, window=window)
    torch.testing.assert_close(y, masked_attention(theta, phi, g, window), rtol=1e-12, atol=1e-12)


def test_a_window_over_everything_is_the_embedded_gaussian() -> None:
    theta, phi, g = tensors((6, 5))
    whole = embedded_gaussian(*(t.flatten(2).mT for t in (theta, phi, g))).mT.view_as(g)
    torch.testing.assert_close(windowed(theta, phi, g, window=11), whole, rtol=1e-12, atol=1e-12)


def test_what_is_outside_of_the_window_changes_no_bit() -> None:
    theta, phi, g = tensors((40, 24), dtype=torch.float32)
    y = windowed(theta, phi, g, window=9)
    phi[:, :, :, 13:] += 100.0
    g[:, :, :, 13:] += 1e6
    moved = windowed(theta, phi, g, window=9)
    assert torch.equal(moved[..., :9], y[..., :9])
    assert (moved[..., 9:] != y[..., 9:]).all()


@pytest.mark.parametrize(("size", "window"), [((3, 4), 3), ((BLOCK + 1, 2), 3)], ids=str)
def test_gradients(size: tuple[int, int], window: int) -> None:
    inputs = [t.requires_grad_() for t in tensors(size, d=2, e=1)]
    assert torch.autograd.gradcheck(lambda *t: windowed(*t, window=window), inputs)


@pytest.mark.full
def test_the_exported_program_computes_the_same() -> None:
    class Windowed(torch.nn.Module):
        def forward(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
            return windowed(theta, phi, g, window=7)

    axes = {
        0: torch.export.Dim("b"),
        2: torch.export.Dim("h", min=17, max=4096),
        3: torch.export.Dim("w", min=17, max=4096),
    }
    program = torch.export.export(
        Windowed(),
        tuple(tensors((20, 33))),
        dynamic_shapes=(axes, axes, axes),
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    for size in ((20, 33), (33, 17), (48, 64)):
        theta, phi, g = tensors(size)
        expected = masked_attention(theta, phi, g, 7)
        torch.testing.assert_close(program.module()(theta, phi, g), expected, rtol=1e-12, atol=1e-12)


def test_memory_does_not_grow_with_the_square_of_the_image() -> None:
    """An image of 96 x 96 has a map of 340 MB; what is held at a time is that of a block."""
    theta, phi, g = tensors((96, 96), dtype=torch.float32)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        windowed(theta[:1], phi[:1], g[:1], window=9)
    largest = max((abs(event.self_cpu_memory_usage) for event in profile.events()), default=0)
    assert largest < 8 << 20


@pytest.mark.parametrize("window", [0, -1, 4])
def test_a_window_has_a_middle(window: int) -> None:
    with pytest.raises(ValueError, match=f"odd window from 1, got {window}"):
        windowed(*tensors((4, 4)), window=window)


def test_shapes_have_to_fit() -> None:
    theta, phi, g = tensors((4, 4))
    with pytest.raises(ValueError, match="windowed: expected theta"):
        windowed(theta, phi[:, :, :3], g, window=3)


def test_half_precision_is_computed_in_float32() -> None:
    theta, phi, g = tensors((20, 20), dtype=torch.bfloat16)
    expected = windowed(theta.float(), phi.float(), g.float(), window=5).bfloat16()
    assert torch.equal(windowed(theta, phi, g, window=5), expected)
