"""Geometries, kernels over time, Slow, frozen norms, and the options that reach the non-local blocks."""

import copy

import pytest
import torch
from torch import nn

from helpers.networks import scrambled
from nlnet import NonLocalBlock, build_model
from nlnet.layers import FrozenAffine
from nlnet.models import ResNet3d
from nlnet.models.frozen import FrozenBatchNorm3d


def on_meta(name: str, **options: object) -> ResNet3d:
    with torch.device("meta"):
        return build_model(name, **options)  # type: ignore[arg-type]


def kernels(name: str, **options: object) -> dict[str, tuple[int, ...]]:
    """The convolutions that span frames."""
    modules = on_meta(name, **options).named_modules()
    return {n: m.kernel_size for n, m in modules if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1}


def pools(**options: object) -> list[tuple[object, object, object]]:
    model = on_meta("c2d_r50", **options)
    return [(p.kernel_size, p.stride, p.padding) for p in model.modules() if isinstance(p, nn.MaxPool3d)]


@pytest.mark.parametrize(
    ("options", "pool1", "pool2"),
    [
        ({}, ((3, 3, 3), 2, (1, 1, 1)), ((2, 1, 1), (2, 1, 1), (0, 0, 0))),
        ({"geometry": "paper"}, ((3, 3, 3), 2, (1, 1, 1)), ((3, 1, 1), (2, 1, 1), (1, 0, 0))),
        ({"pool1_padding": 0}, ((2, 3, 3), 2, (0, 0, 0)), ((2, 1, 1), (2, 1, 1), (0, 0, 0))),
        ({"pool1_frames": 1}, ((1, 3, 3), 2, (0, 1, 1)), ((2, 1, 1), (2, 1, 1), (0, 0, 0))),
        ({"geometry": "sparse"}, ((1, 3, 3), (1, 2, 2), (0, 1, 1)), ((2, 1, 1), (2, 1, 1), (0, 0, 0))),
        ({"geometry": "sparse", "pool1_padding": 0, "pool2_frames": 1}, ((1, 3, 3), (1, 2, 2), (0, 0, 0)), None),
    ],
)
def test_the_pools_of_each_geometry(options: dict[str, object], pool1: object, pool2: object) -> None:
    assert pools(**options) == [pool for pool in (pool1, pool2) if pool is not None]


def test_the_papers_geometry_is_table_1() -> None:
    model = on_meta("c2d_r50", geometry="paper")
    sizes = []
    with torch.device("meta"):
        for name in model.trunk_names:
            model.get_submodule(name).register_forward_hook(lambda _, __, y: sizes.append(tuple(y.shape[2:])))
        model(torch.empty(1, 3, 32, 224, 224))
    halves = [(4, 28, 28), (4, 14, 14), (4, 7, 7)]
    assert sizes == [(16, 112, 112), (8, 56, 56), (8, 56, 56), (4, 56, 56), *halves]


def test_strides_and_dilations_of_a_stage() -> None:
    """A stage at stride 1 keeps the map, and its kernels see as far apart as the dilation says, padded by as much."""
    model = on_meta("slow_r50", spatial_strides={"res5": 1}, dilations={"res5": 2})
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv3d) and m.kernel_size[1] == 3}
    spread = {name: (m.dilation, m.padding) for name, m in convs.items() if m.dilation != (1, 1, 1)}
    assert spread == {f"res5.{i}.conv2": ((1, 2, 2), (0, 2, 2)) for i in range(3)}
    with torch.device("meta"):
        assert model.features(torch.empty(1, 3, 4, 224, 224)).shape == (1, 2048, 4, 14, 14)
    assert model.state_dict().keys() == on_meta("slow_r50").state_dict().keys()


def test_slow_keeps_all_frames_and_looks_at_three_in_res4_and_res5() -> None:
    for name, depth in (("slow_r50", 6), ("slow_r101", 23)):
        blocks = [*(f"res4.{i}" for i in range(depth)), *(f"res5.{i}" for i in range(3))]
        assert kernels(name) == {f"{block}.conv1": (3, 1, 1) for block in blocks}
    model = on_meta("slow_r50", nonlocal_blocks=5)
    assert "pool2" not in model.trunk_names
    assert (model.stem.conv.kernel_size, model.stem.conv.stride) == ((1, 7, 7), (1, 2, 2))
    with torch.device("meta"):
        assert model.features(torch.empty(1, 3, 8, 224, 224)).shape == (1, 2048, 8, 7, 7)


def test_3x3x3_inflates_the_second_convolution_of_the_same_blocks() -> None:
    thin, cubic = kernels("i3d_r101"), kernels("i3d_r101", inflation="3x3x3")
    assert thin.pop("stem.conv") == cubic.pop("stem.conv") == (5, 7, 7)
    assert set(thin.values()) == {(3, 1, 1)}
    assert cubic == {name.replace("conv1", "conv2"): (3, 3, 3) for name in thin}
    assert kernels("c2d_r50", inflation="3x3x3") == {}


def blocks_of(model: nn.Module) -> dict[str, NonLocalBlock]:
    return {name: module for name, module in model.named_modules() if isinstance(module, NonLocalBlock)}


def test_options_of_the_blocks_reach_them_all() -> None:
    options = {"preset": "mmcv", "axes": "space", "out_bias": True, "init": None}
    model = on_meta("c2d_r50", nonlocal_blocks=5, nonlocal_options=options, pairwise="concatenation")
    for block in blocks_of(model).values():
        assert (block.axes, block.subsample_order, block.pairwise) == ("space", "after", "concatenation")
        assert block.out.bias is not None
    text = on_meta("c2d_r50", nonlocal_blocks=1, nonlocal_options={"preset": "paper"})
    (block,) = blocks_of(text).values()
    assert (block.scale, block.init, block.subsample_order) == (1.0, "msra", "after")
    (block,) = blocks_of(on_meta("c2d_r50", nonlocal_blocks=1, scale=False)).values()
    assert (block.scale, block.init) == (1.0, "normal")


def test_groups_of_frames_are_by_stage() -> None:
    model = on_meta("i3d_r50", nonlocal_blocks=5, nonlocal_groups={"res3": 4})
    groups = {name: block.temporal_group for name, block in blocks_of(model).items()}
    assert groups == {f"res3.{i}_nonlocal": 4 for i in (1, 3)} | {f"res4.{i}_nonlocal": None for i in (1, 3, 5)}


def test_a_frozen_network_is_the_trained_one_in_evaluation_mode_whatever_its_mode() -> None:
    torch.manual_seed(0)
    trained = scrambled(build_model("i3d_demo", num_classes=4)).double().eval()
    frozen = build_model("i3d_demo", num_classes=4, norm="frozen", dropout=0.0).double()
    frozen.load_state_dict(trained.state_dict())  # the same names
    clip = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64)
    kept = copy.deepcopy(frozen.state_dict())
    for model in (frozen.train(), frozen.eval()):
        torch.testing.assert_close(model(clip), trained(clip), rtol=1e-12, atol=1e-12)
    frozen.train()(clip).square().sum().backward()
    assert all(torch.equal(value, kept[name]) for name, value in frozen.state_dict().items())
    gradients = {name: parameter.grad for name, parameter in frozen.named_parameters()}
    of_norms = {name for name in gradients if ".bn" in name or "downsample.1" in name}
    assert {name for name, gradient in gradients.items() if gradient is None} == of_norms
    assert of_norms


def test_frozen_branches_are_open_and_their_new_blocks_have_no_norm() -> None:
    model = on_meta("i3d_r50", nonlocal_blocks=5, norm="frozen")
    assert {type(block.norm) for block in blocks_of(model).values()} == {nn.Identity}
    real = build_model("c2d_r50", norm="frozen", nonlocal_blocks=1, nonlocal_options={"norm": "affine"})
    assert all(norm.weight.all() for norm in real.modules() if isinstance(norm, FrozenBatchNorm3d))
    (block,) = blocks_of(real).values()
    assert isinstance(block.norm, FrozenAffine)
    assert not block.out.weight.any()  # still the identity
