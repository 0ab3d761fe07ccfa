"""What a conversion reports, refuses and allows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import checkpoint_names as names
from helpers import py2_pickle
from helpers.video_weights import I3D, Layout, constant_weights
from nlnet import from_pretrained
from nlnet.checkpoints import convert
from nlnet.checkpoints.sources.mmconfig import read_config
from nlnet.cli.checkpoints.convert import main
from nlnet.errors import UserError

LAYOUT = Layout(temporal=I3D, classes=12)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return constant_weights(LAYOUT, names.slowfast)


def saved(weights: dict[str, Tensor], path: Path) -> Path:
    torch.save({"model_state": weights}, path)
    return path


def test_every_key_is_accounted_for(weights: dict[str, Tensor], tmp_path: Path) -> None:
    converted = convert(saved(weights, tmp_path / "i3d.pyth"), "slowfast")
    report = converted.report
    assert report.mapped.keys() == weights.keys()
    assert set(report.mapped.values()) | report.made.keys() == set(converted.state_dict)
    assert all(key.endswith("num_batches_tracked") for key in report.made)
    assert len(list(report.lines())) == len(weights) + len(report.made)
    assert all(torch.equal(weights[key], converted.state_dict[target]) for key, target in report.mapped.items())


def test_left_over_and_missing_keys_are_errors_unless_allowed(weights: dict[str, Tensor], tmp_path: Path) -> None:
    changed = {key: value for key, value in weights.items() if key != "head.projection.bias"}
    path = saved(changed | {"s1.extra.weight": torch.zeros(2)}, tmp_path / "i3d.pyth")
    with pytest.raises(UserError, match=r"2 keys.*left over s1\.extra\.weight.*missing fc\.bias"):
        convert(path, "slowfast")
    with pytest.raises(UserError, match=r"1 keys.*missing fc\.bias"):
        convert(path, "slowfast", allow=["s1.extra.*"])
    converted = convert(path, "slowfast", allow=["s1.extra.*", "fc.bias"])
    assert converted.report.missing == {"fc.bias": "no source key"}
    assert torch.equal(converted.build().fc.bias, torch.zeros(12))  # as built
    converted.save(tmp_path / "ours.pth")
    assert "fc.bias" in from_pretrained(tmp_path / "ours.pth").state_dict()


def test_another_classifier(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "i3d.pyth")
    with pytest.raises(UserError, match=r"fc\.weight.*\(12, 2048\), here \(157, 2048\)"):
        convert(path, "slowfast", num_classes=157)
    converted = convert(path, "slowfast", num_classes=157, allow=["fc.*", "head.*"])
    assert converted.report.missing.keys() == {"fc.weight", "fc.bias"}
    assert converted.build().fc.out_features == 157


def test_a_network_that_is_none_of_ours(weights: dict[str, Tensor], tmp_path: Path) -> None:
    changed = weights | {"s2.pathway0_res0.branch2.a.weight": torch.zeros(64, 64, 5, 1, 1)}
    with pytest.raises(UserError, match=r"none of the networks.*res2\.0\.conv1\.weight is \(64, 64, 5, 1, 1\)"):
        convert(saved(changed, tmp_path / "x.pyth"), "slowfast")


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ("NONLOCAL: {INSTANTIATION: other}", "INSTANTIATION=other"),
        ("NONLOCAL: {LOCATION: [[[1]]], GROUP: [[1]], POOL: [[[2, 2, 2]]]}", "only 1x2x2"),
    ],
)
def test_slowfast_settings_without_counterpart(cfg: str, message: str, tmp_path: Path) -> None:
    torch.save({"model_state": {"s1.x": torch.zeros(1)}, "cfg": cfg}, tmp_path / "x.pyth")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "x.pyth", "slowfast")


def test_two_pathways_are_refused(tmp_path: Path) -> None:
    torch.save({"s1.pathway1_stem.conv.weight": torch.zeros(1)}, tmp_path / "x.pyth")
    with pytest.raises(UserError, match="two pathways"):
        convert(tmp_path / "x.pyth", "slowfast")


def test_sources_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="source 'mmaction' is unknown; nearest: mmaction2"):
        convert(tmp_path / "x.pth", "mmaction")
    for source in ("torchvision", "caffe2"):
        with pytest.raises(UserError, match="there is no such file"):
            convert(tmp_path / "x.pth", source)


def test_caffe2_files_do_not_say_their_geometry(tmp_path: Path) -> None:
    """Nor guess it: a renamed file must be told."""
    blobs = {key: value.numpy() for key, value in constant_weights(LAYOUT, names.caffe2).items()}
    path = tmp_path / "net.pkl"
    path.write_bytes(py2_pickle.dumps(blobs))
    with pytest.raises(UserError, match=r"geometry changes the output.*32x2"):
        convert(path, "caffe2")
    assert convert(path, "caffe2", geometry="dense").model["geometry"] == "dense"


def test_command(weights: dict[str, Tensor], command: Callable[..., Any], tmp_path: Path) -> None:
    """Every key, then the counts and the network; the file written is the network."""
    path, out = saved(weights, tmp_path / "i3d.pyth"), tmp_path / "ours.pth"
    code, text, _ = command(main, str(path), "--source", "slowfast", "--out", str(out), "--set", "dropout=0.3")
    assert code == 0
    assert "mapped     s1.pathway0_stem.conv.weight -> stem.conv.weight" in text
    assert f"{len(weights)} mapped" in text
    assert "0 left over, 0 missing" in text
    assert "name=i3d_r50" in text
    assert "geometry=sparse" in text
    net = from_pretrained(out)
    assert net.dropout.p == 0.3
    assert torch.equal(net.stem.conv.weight, weights["s1.pathway0_stem.conv.weight"])
    code, _, errors = command(main, str(path), "--source", "slowfast", "--set", "num_classes=3")
    assert code == 1
    assert errors.startswith("error: ")
    assert "fc.weight" in errors


def test_openmmlab_configurations_inherit(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(
        "n = 2\nmodel = dict(a=dict(x=1, y=(1, -n)), b=dict(z=3), c=[1])\nother = n + 1\n"
    )
    (tmp_path / "top.py").write_text(
        "_base_ = ['ba' + 'se.py']\nmodel = dict(a={'x': 5}, b=dict(_delete_=True, w=4), c=[2])\nlost = open('x')\n"
    )
    assert read_config(tmp_path / "top.py") == {
        "n": 2,
        "model": {"a": {"x": 5, "y": (1, -2)}, "b": {"w": 4}, "c": [2]},
        "other": 3,
    }
