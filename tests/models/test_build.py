"""The networks by name: sizes against the published figures, where the blocks are, and what is refused."""

import pytest
import torch
from omegaconf import OmegaConf

from nlnet import NonLocalBlock, build_model
from nlnet.config.compose import compose
from nlnet.errors import UserError
from nlnet.models import NETWORKS, ResNet3d, describe


def on_meta(name: str, **options: object) -> ResNet3d:
    with torch.device("meta"):
        return build_model(name, **options)  # type: ignore[arg-type]


def test_the_line_a_run_starts_with() -> None:
    frozen = on_meta("i3d_r50", nonlocal_blocks="res4", inflation="3x3x3", norm="frozen")
    assert str(describe(frozen, (3, 16, 64, 64))).startswith(
        "I3D-R50 (3x3x3 kernels, frozen norms), 1 non-local block (embedded_gaussian) after res4.4: "
    )
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
    blocks_there = [key for key, module in model.named_modules() if isinstance(module, NonLocalBlock)]
    assert len(blocks_there) == blocks
    for key in blocks_there:
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
        ("slow_r50", {"geometry": "dense"}, "geometry=dense: Slow-R50 keeps all frames.*geometry=sparse"),
        ("c2d_r50", {"geometry": "sparse", "pool1_frames": 2}, "pool1_frames=2: a sparse geometry keeps all"),
        ("c2d_r50", {"pool2_frames": 4}, "pool2_frames 4 is unknown"),
        ("c2d_r50", {"inflation": "3x3"}, "inflation '3x3' is unknown; nearest: 3x3x3"),
        ("c2d_r50", {"norm": "freeze"}, "norm 'freeze' is unknown; nearest: frozen"),
        ("c2d_r50", {"nonlocal_options": {"axis": "space"}}, "nonlocal_options.axis: .*nearest: axes"),
        ("c2d_r50", {"nonlocal_options": {"axes": "spce"}, "nonlocal_blocks": 1}, "nonlocal_options: .*axes"),
        ("c2d_r50", {"nonlocal_options": {"scale": True}}, "nonlocal_options.scale"),
        ("c2d_r50", {"nonlocal_groups": {"res6": 4}}, "nonlocal_groups: stage 'res6' is unknown; nearest: res"),
        ("c2d_r50", {"spatial_strides": {"res6": 1}}, "spatial_strides: stage 'res6' is unknown; nearest: res"),
        ("c2d_demo", {"dilations": {"res5": 2}}, "dilations: stage 'res5' is unknown; nearest: res"),
        ("c2d_r50", {"nonlocal_groups": "res3"}, "nonlocal_groups='res3': give whole numbers by stage"),
        ("c2d_r50", {"dilations": {"res5": 0}}, "dilations: res5=0: give a whole number, at least 1"),
        ("c2d_r50", {"spatial_strides": {"res5": 1.5}}, "spatial_strides: res5=1.5: give a whole number"),
        ("i3d_50", {}, "model name 'i3d_50' is unknown; nearest: i3d_r50"),
        ("c2d_r50", {"pairwise": "embeded_gaussian"}, "nearest: embedded_gaussian"),
        ("c2d_r50", {"geometry": "thick"}, "geometry 'thick' is unknown; known: dense, paper, sparse"),
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
    config: dict = OmegaConf.to_container(compose([f"model={name}"]).model)  # type: ignore[assignment]
    assert config.pop("_target_") == "nlnet.build_model"
    shown = config.pop("nonlocal_options")
    of_the_block = dict(NonLocalBlock.__init__.__kwdefaults__)
    of_the_block["norm"] = None  # it depends on the network's
    named_apart = {"subsample", "scale", "temporal_group"}
    assert shown == {key: value for key, value in of_the_block.items() if key not in named_apart}
    defaults = dict(build_model.__kwdefaults__)
    del defaults["num_classes"]  # it comes from the data
    del defaults["nonlocal_options"]
    if name.endswith("_demo"):
        defaults["dropout"] = 0.0
    else:
        defaults["geometry"] = "sparse" if name.startswith("slow") else "dense"  # what null stands for
    assert config == {"name": name, **defaults}
