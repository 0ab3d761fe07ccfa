"""Axes, groups, presets and chosen rows of the map, against the masked map of the oracle."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.nonlocal_oracle import awake, block_by_hand, map_by_hand
from nlnet import NonLocalBlock, ops

PAIRWISE = list(ops.PAIRWISE)
REGIONS = [{"axes": "space"}, {"axes": "time"}, {"temporal_group": 2}, {"temporal_group": 4}, {}]


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("region", REGIONS, ids=str)
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_who_meets_whom(pairwise: str, region: dict[str, object], order: str, layout: torch.memory_format) -> None:
    block = awake(NonLocalBlock(6, 3, pairwise, subsample_order=order, **region)).double().eval()
    x = torch.randn(2, 6, 4, 5, 4, dtype=torch.float64).contiguous(memory_format=layout)
    torch.testing.assert_close(block(x), block_by_hand(block, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("region", REGIONS, ids=str)
@pytest.mark.parametrize("order", ["before", "after"])
def test_chosen_rows_are_those_of_the_map(pairwise: str, region: dict[str, object], order: str) -> None:
    block = awake(NonLocalBlock(6, 3, pairwise, subsample_order=order, **region)).double().eval()
    x = torch.randn(2, 6, 4, 5, 4, dtype=torch.float64)
    rows = [0, 79, 33, 33]
    weights, meets = map_by_hand(block, x)
    expected = torch.stack([weights[:, row, meets[row]] for row in rows], dim=1)
    attention = block.attention(x, rows)
    assert attention.shape == (2, 4, torch.Size(block.key_size(x.shape[2:])).numel())
    torch.testing.assert_close(attention, expected, rtol=1e-10, atol=1e-12)


def test_chosen_rows_cost_what_these_rows_cost() -> None:
    block, (c, d, n, m, p) = NonLocalBlock(8), (8, 4, 4 * 16 * 16, 4 * 8 * 8, 3)
    with FlopCounterMode(display=False) as counter:
        block.attention(torch.zeros(1, c, 4, 16, 16), [5, 6, n - 1])
    # theta of P positions, phi of the keys, P rows of the map
    assert counter.get_total_flops() == 2 * (p * c * d + m * c * d + p * m * d)


@pytest.mark.parametrize("positions", [[-1], [80], [[0, 1]], [0.5]])
def test_positions_outside_are_named(positions: list[object]) -> None:
    with pytest.raises(ValueError, match=r"expected positions \(P,\) in \[0, 80\), got"):
        NonLocalBlock(6).attention(torch.zeros(1, 6, 4, 5, 4), positions)  # type: ignore[arg-type]


def test_time_is_never_pooled_in_space() -> None:
    block = NonLocalBlock(6, axes="time")
    assert not block.subsample
    assert block.key_size((4, 14, 14)) == (4, 1, 1)
    assert NonLocalBlock(6, axes="space").key_size((4, 14, 14)) == (1, 7, 7)
    assert NonLocalBlock(6, temporal_group=2, subsample=False).key_size((4, 14, 14)) == (2, 14, 14)
    assert NonLocalBlock(6, dims=1).key_size((9,)) == (4,)


# max pool before or after phi and g, scaled or not, N(0, 0.01) or He's, W's bias beside a norm
@pytest.mark.parametrize(
    ("preset", "order", "scaled", "deviation", "bias"),
    [
        ("official", "before", True, (0.01, 0.01), True),
        ("paper", "after", False, ((2 / 128) ** 0.5, (2 / 256) ** 0.5), True),
        ("mmcv", "after", True, (0.01, 0.01), False),
    ],
)
def test_presets(preset: str, order: str, scaled: bool, deviation: tuple[float, float], bias: bool) -> None:
    block = NonLocalBlock(256, preset=preset)
    for conv in (block.theta, block.phi, block.g):
        assert conv.weight.std().item() == pytest.approx(deviation[0], rel=0.02)
        assert not conv.bias.any()
    assert block.out.weight.std().item() == pytest.approx(deviation[1], rel=0.02)
    assert (block.out.bias is not None) == bias
    assert (NonLocalBlock(8, preset=preset, norm="none").out.bias is not None) is True
    assert block.scale == (128**-0.5 if scaled else 1)
    # what the preset computes, against the oracle told the choice in so many words
    small = awake(NonLocalBlock(6, preset=preset)).double().eval()
    x = torch.randn(1, 6, 2, 4, 4, dtype=torch.float64)
    z = small(x)
    small.subsample_order, small.scale = order, 3**-0.5 if scaled else 1
    torch.testing.assert_close(z, block_by_hand(small, x), rtol=1e-10, atol=1e-10)


def test_an_option_said_aloud_wins_over_the_preset() -> None:
    block = NonLocalBlock(8, preset="paper", subsample_order="before", scale=True, init="normal", out_bias=False)
    assert (block.subsample_order, block.scale, block.init, block.out.bias) == ("before", 0.5, "normal", None)


def test_only_the_embedded_gaussian_is_scaled_by_its_inner_channels() -> None:
    assert NonLocalBlock(32).scale == 16**-0.5
    assert NonLocalBlock(32, inner_channels=4).scale == 0.5
    assert NonLocalBlock(32, scale=False).scale == 1
    assert {NonLocalBlock(32, pairwise=p).scale for p in PAIRWISE if p != "embedded_gaussian"} == {1}


@pytest.mark.parametrize(
    ("options", "zero"),
    [
        ({}, "norm"),
        ({"norm": "none"}, "out"),
        ({"norm": "affine"}, "out"),
        ({"zero_init": "out"}, "out"),
        ({"zero_init": "none"}, None),
    ],
)
def test_what_starts_at_zero(options: dict[str, object], zero: str | None) -> None:
    block = NonLocalBlock(8, **options)
    weights = {
        name: block.get_submodule(name).weight for name in ("norm", "out") if hasattr(getattr(block, name), "weight")
    }
    assert {name for name, weight in weights.items() if not weight.any()} == ({zero} - {None})
