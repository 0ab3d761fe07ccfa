"""The networks by name: sizes against the published figures, where the blocks are, and what is refused."""

from pathlib import Path

import pytest
import torch
import yaml

from nlnet import NonLocalBlock, build_model
from nlnet.errors import UserError
from nlnet.models import NETWORKS, ResNet3d, describe

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "model"


def on_meta(name: str, **options: object) -> ResNet3d:
    with torch.device("meta"):
        return build_model(name, **options)  # type: ignore[arg-type]


# Published sizes of the released networks; their pool1 has no padding. Millions, GMACs.
@pytest.mark.parametrize(
    ("name", "blocks", "geometry", "frames", "parameters", "gmacs"),
    [
        ("c2d_r50", 0, "dense", 32, 24.33, 20.2),
        ("c2d_r50", 5, "dense", 32, 31.69, 28.4),
        ("i3d_r50", 0, "dense", 32, 28.04, 32.8),
        ("i3d_r50", 5, "dense", 32, 35.40, 41.0),
        ("c2d_r50", 0, "sparse", 8, 24.33, 19.3),
        ("c2d_r50", 5, "sparse", 8, 31.69, 27.4),
        ("i3d_r50", 0, "sparse", 8, 28.04, 28.1),
        ("i3d_r50", 5, "sparse", 8, 35.40, 36.2),
        ("c2d_r101", 0, "sparse", 8, 43.32, 34.1),
    ],
)
def test_sizes_are_the_published_ones(
    name: str, blocks: int, geometry: str, frames: int, parameters: float, gmacs: float
) -> None:
    model = on_meta(name, nonlocal_blocks=blocks, geometry=geometry, pool1_padding=0)
    summary = describe(model, (3, frames, 224, 224))
    assert summary.parameters / 1e6 == pytest.approx(parameters, abs=0.01)
    assert summary.gmacs == pytest.approx(gmacs, rel=0.005)
    assert len(summary.nonlocal_blocks) == blocks


@pytest.mark.parametrize(("name", "blocks", "parameters"), [("c2d_r50", 10, 39.04), ("c2d_r101", 5, 50.68)])
def test_parameters_of_the_larger_networks(name: str, blocks: int, parameters: float) -> None:
    model = on_meta(name, nonlocal_blocks=blocks)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.01)


def test_the_line_a_run_starts_with() -> None:
    model = on_meta("c2d_r50", nonlocal_blocks=5, pool1_padding=0)
    assert str(describe(model, (3, 32, 224, 224))) == (
        "C2D-R50, 5 non-local blocks (embedded_gaussian) after res3.1, res3.3, res4.1, res4.3, res4.5: "
        "31.69 M parameters, 28.4 GMACs at 3x32x224x224"
    )
    line = str(describe(on_meta("i3d_demo", nonlocal_blocks=1, pairwise="dot_product"), (3, 8, 32, 32)))
    assert line.startswith("I3D-demo, 1 non-local block (dot_product) after res3.0: 0.")
    assert "C2D-demo, no non-local blocks: 0." in str(describe(on_meta("c2d_demo"), (3, 8, 32, 32)))


def test_describing_leaves_the_model_as_it_was() -> None:
    model = build_model("c2d_demo", nonlocal_blocks=2).train()
    model.stem.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    describe(model, (3, 8, 32, 32))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_clip_the_network_cannot_take_is_named() -> None:
    with pytest.raises(UserError, match="C2D-R50 cannot take clips of 3x4x224x224"):
        describe(on_meta("c2d_r50"), (3, 4, 224, 224))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("blocks", [1, 10])
def test_as_many_blocks_as_asked_for_and_no_other_key_changes(name: str, blocks: int) -> None:
    if name.endswith("_demo"):
        blocks = min(blocks, 2)
    plain, model = on_meta(name), on_meta(name, nonlocal_blocks=blocks)
    places = [key for key, module in model.named_modules() if isinstance(module, NonLocalBlock)]
    assert len(places) == blocks
    for key in places:
        residual = model.get_submodule(key.removesuffix("_nonlocal"))
        assert residual.conv3.out_channels == model.get_submodule(key).channels
    kept = [key for key in model.state_dict() if "_nonlocal." not in key]
    assert kept == list(plain.state_dict())


def test_state_dict_keys_are_stable() -> None:
    keys = list(on_meta("i3d_demo", nonlocal_blocks=1, head="mlp").state_dict())
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    block = [key for n in (1, 2, 3) for key in (f"conv{n}.weight", *(f"bn{n}.{part}" for part in norm))]
    first = [*block, "downsample.0.weight", *(f"downsample.1.{part}" for part in norm)]
    nonlocal_block = [f"{c}.{part}" for c in ("theta", "phi", "g", "out") for part in ("weight", "bias")]
    assert keys == [
        *("stem.conv.weight", *(f"stem.bn.{part}" for part in norm)),
        *(f"res2.0.{key}" for key in first),
        *(f"res3.0.{key}" for key in first),
        *(f"res3.0_nonlocal.{key}" for key in [*nonlocal_block, *(f"norm.{part}" for part in norm)]),
        *(f"res3.{i}.{key}" for i in (1, 2) for key in block),
        *("hidden.0.weight", "hidden.0.bias", "fc.weight", "fc.bias"),
    ]


def test_options_reach_the_blocks() -> None:
    model = on_meta("c2d_r50", nonlocal_blocks=["res2.1"], pairwise="dot_product", subsample=False, num_classes=7)
    (block,) = (m for m in model.modules() if isinstance(m, NonLocalBlock))
    assert (block.pairwise, block.subsample, block.channels, model.fc.out_features) == ("dot_product", False, 256, 7)
    (block,) = (
        m for m in on_meta("c2d_demo", nonlocal_blocks=1, scale=False).modules() if isinstance(m, NonLocalBlock)
    )
    assert block.scale == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("i3d_50", {}, "model name 'i3d_50' is unknown; nearest: i3d_r50"),
        ("c2d_r50", {"pairwise": "embeded_gaussian"}, "nearest: embedded_gaussian"),
        ("c2d_r50", {"geometry": "thick"}, "geometry 'thick' is unknown; known: dense, sparse"),
        ("c2d_r50", {"head": "mpl"}, "head 'mpl' is unknown; nearest: mlp"),
        ("c2d_r50", {"pool1_padding": 2}, "pool1_padding 2 is unknown"),
        ("c2d_r50", {"dropout": 1.0}, "dropout=1.0"),
        ("c2d_r50", {"num_classes": 0}, "num_classes=0"),
        ("c2d_r50", {"nonlocal_blocks": 2}, "Give one of 0, 1, 5, 10"),
        ("c2d_r50", {"nonlocal_blocks": []}, "the list is empty"),
    ],
)
def test_mistakes_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        on_meta(name, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_config_shows_every_option_with_its_default(name: str) -> None:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert config.pop("_target_") == "nlnet.build_model"
    defaults = dict(build_model.__kwdefaults__)
    del defaults["num_classes"]  # it comes from the data
    if name.endswith("_demo"):
        defaults["dropout"] = 0.0
    assert config == {"name": name, **defaults}
