"""The networks' geometry, receptive field and start."""

import pytest
import torch
from torch import nn

from nlnet import NonLocalBlock, build_model


def maps(name: str, frames: int, side: int, **options: object) -> dict[str, tuple[int, ...]]:
    """The size (C, T, H, W) of what each part of the trunk returns, without computing it."""
    sizes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        model = build_model(name, **options).eval()  # type: ignore[arg-type]
        for part in model.trunk_names:
            model.get_submodule(part).register_forward_hook(
                lambda module, inputs, output, part=part: sizes.__setitem__(part, tuple(output.shape[1:]))
            )
        assert model(torch.empty(2, 3, frames, side, side)).shape == (2, 400)
    return sizes


@pytest.mark.parametrize("name", ["c2d_r50", "i3d_r50", "c2d_r101", "i3d_r101"])
def test_dense_geometry_is_table_1(name: str) -> None:
    assert maps(name, 32, 224) == {
        "stem": (64, 16, 112, 112),
        "pool1": (64, 8, 56, 56),
        "res2": (256, 8, 56, 56),
        "pool2": (256, 4, 56, 56),
        "res3": (512, 4, 28, 28),
        "res4": (1024, 4, 14, 14),
        "res5": (2048, 4, 7, 7),
    }


@pytest.mark.parametrize(
    ("geometry", "padding", "side", "pool1", "res5"),
    [
        ("dense", 0, 224, (64, 2, 55, 55), (2048, 1, 7, 7)),
        ("dense", 0, 256, (64, 2, 63, 63), (2048, 1, 8, 8)),
        ("sparse", 0, 224, (64, 8, 55, 55), (2048, 4, 7, 7)),
        ("sparse", 1, 224, (64, 8, 56, 56), (2048, 4, 7, 7)),
    ],
)
def test_pool1_as_released_and_sparse_geometry(
    geometry: str, padding: int, side: int, pool1: tuple[int, ...], res5: tuple[int, ...]
) -> None:
    sizes = maps("i3d_r50", 8, side, geometry=geometry, pool1_padding=padding, nonlocal_blocks=5)
    assert (sizes["pool1"], sizes["res5"]) == (pool1, res5)


def temporal_kernels(name: str) -> dict[str, int]:
    with torch.device("meta"):
        model = build_model(name)
    return {n: m.kernel_size[0] for n, m in model.named_modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1}


def test_i3d_kernels_are_those_of_the_paper() -> None:
    assert temporal_kernels("c2d_r50") == temporal_kernels("c2d_r101") == temporal_kernels("c2d_demo") == {}
    first = [("res2", 0), ("res2", 1), ("res2", 2), ("res3", 0), ("res3", 2)]
    r50 = [*first, *(("res4", i) for i in (0, 2, 4)), ("res5", 1)]
    r101 = [*first, *(("res4", i) for i in range(0, 23, 2)), ("res5", 1)]
    for name, blocks in (("i3d_r50", r50), ("i3d_r101", r101)):
        assert temporal_kernels(name) == {"stem.conv": 5} | {f"{stage}.{i}.conv1": 3 for stage, i in blocks}


def test_a_new_network_keeps_its_output_when_blocks_are_put_in() -> None:
    clip = torch.randn(2, 3, 8, 32, 32)
    for name in ("c2d_r50", "i3d_demo"):
        with torch.random.fork_rng():
            plain = build_model(name, num_classes=5, geometry="sparse").eval()
        model = build_model(name, num_classes=5, geometry="sparse", nonlocal_blocks=5).eval()
        missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
        assert missing
        assert all("_nonlocal." in key for key in missing)
        with torch.no_grad():
            assert torch.equal(model(clip), plain(clip))


def test_initial_weights() -> None:
    model = build_model("c2d_r50", nonlocal_blocks=1, geometry="sparse")
    for name, module in model.named_modules():
        if isinstance(module, NonLocalBlock):
            assert module.theta.weight.std().item() == pytest.approx(0.01, rel=0.05)
        elif name.endswith("bn3"):
            assert not module.weight.any()
        elif isinstance(module, nn.Conv3d) and "_nonlocal" not in name:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] * module.kernel_size[2]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.fc.bias.any()


def gradient_of_columns(name: str, blocks: int) -> torch.Tensor:
    """|d map column / d pixel column| summed over everything else: (columns of the last feature map, pixel columns)."""
    torch.manual_seed(0)
    model = build_model(name, nonlocal_blocks=blocks, num_classes=4).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)  # opens the non-local blocks
    clip = torch.randn(1, 3, 8, 32, 32, requires_grad=True)
    features = model.features(clip)
    rows = []
    for column in range(features.shape[-1]):
        (gradient,) = torch.autograd.grad(features[..., column].square().sum(), clip, retain_graph=True)
        rows.append(gradient.abs().sum((0, 1, 2, 3)))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["c2d_demo", "i3d_demo"])
def test_no_position_of_the_local_demo_network_sees_both_sides(name: str) -> None:
    seen = gradient_of_columns(name, 0) > 0
    assert seen.shape == (8, 32)
    left, right = seen[:, :11].any(1), seen[:, 21:].any(1)
    assert not (left & right).any()
    assert left.any()
    assert right.any()
    assert seen.sum(1).max() <= 11
    assert seen.any(0).all()


@pytest.mark.parametrize("name", ["c2d_demo", "i3d_demo"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_with_non_local_blocks_every_position_sees_both_sides(name: str, blocks: int) -> None:
    seen = gradient_of_columns(name, blocks) > 0
    assert (seen[:, :11].any(1) & seen[:, 21:].any(1)).all()


def test_frames_of_the_c2d_demo_network_do_not_mix_before_the_mean() -> None:
    for name, mixes in (("c2d_demo", False), ("i3d_demo", True)):
        clip = torch.randn(1, 3, 8, 32, 32, requires_grad=True)
        features = build_model(name).eval().features(clip)
        assert features.shape == (1, 64, 8, 8, 8)
        (gradient,) = torch.autograd.grad(features[:, :, 3].sum(), clip)
        assert (gradient.abs().sum((0, 1, 3, 4)) > 0).tolist() == [
            t == 3 or (mixes and abs(t - 3) <= 4) for t in range(8)
        ]


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_head(head: str) -> None:
    model = build_model("c2d_demo", num_classes=3, head=head, dropout=0.0)
    clip = torch.randn(2, 3, 8, 32, 32)
    pooled = model.features(clip).mean((2, 3, 4))
    if head == "mlp":
        pooled = (pooled @ model.hidden[0].weight.T + model.hidden[0].bias).relu()
    torch.testing.assert_close(model(clip), pooled @ model.fc.weight.T + model.fc.bias)


@pytest.mark.parametrize("shape", [(2, 8, 3, 32, 32), (2, 3, 32, 32)])
def test_a_wrong_clip_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"C2D-demo: expected a clip \(B, 3, T, H, W\), got"):
        build_model("c2d_demo")(torch.zeros(shape))
