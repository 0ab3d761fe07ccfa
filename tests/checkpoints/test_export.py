"""Exported files, run without the network they came from, on clips of other sizes than they were traced with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.networks import randomise
from helpers.video_weights import relative
from nlnet import build_model
from nlnet.checkpoints import Converted, Report
from nlnet.checkpoints.export import export, run_exported
from nlnet.cli.checkpoints.export import main
from nlnet.errors import UserError

CLIPS = ((1, 5, 48, 40), (3, 8, 32, 56))


def network(name: str, **model: Any) -> tuple[nn.Module, dict[str, Any]]:
    arguments = {"name": name, "num_classes": 7, **model}
    return randomise(build_model(**arguments)), arguments


def check(net: nn.Module, path: Path, kind: str, clips: tuple[tuple[int, int, int, int], ...] = CLIPS) -> None:
    for batch, *size in clips:
        clip = torch.randn(batch, 3, *size)
        with torch.no_grad():
            assert relative(run_exported(path, clip, kind), net(clip)) < 1e-4


@pytest.mark.full
def test_onnx_by_the_command(command: Callable[..., Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="it is in the extra `export`")
    pytest.importorskip("onnxruntime", reason="it is in the extra `export`")
    net, model = network("c2d_demo", nonlocal_blocks=1)
    Converted(net.state_dict(), model, Report(), "test").save(tmp_path / "net.pth")
    out = tmp_path / "net.onnx"
    code, text, _ = command(main, str(tmp_path / "net.pth"), "--format", "onnx", "--out", str(out))
    assert code == 0
    assert f"written: {out}" in text
    written = onnx.load(out)
    assert written.opset_import[0].version >= 18
    dims = written.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "frames", "height", "width"]
    check(net, out, "onnx")


def test_onnx_without_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx, onnxruntime, onnxscript.*nlnet\[export\]"):
        export(build_model("c2d_demo"), tmp_path / "x.onnx", "onnx")


@pytest.mark.full
@pytest.mark.parametrize("pairwise", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_every_pairwise_function(kind: str, pairwise: str, tmp_path: Path) -> None:
    net, _ = network("i3d_demo", nonlocal_blocks=2, pairwise=pairwise)
    assert export(net, tmp_path / "net", kind) < 1e-4
    check(net, tmp_path / "net", kind)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize(
    "model",
    [
        {"name": "i3d_r50", "nonlocal_blocks": 5, "geometry": "dense"},
        {"name": "c2d_r50", "nonlocal_blocks": "res5", "nonlocal_options": {"preset": "mmcv"}},
    ],
)
def test_real_networks(model: dict[str, Any], kind: str, tmp_path: Path) -> None:
    net, _ = network(**model)
    assert export(net, tmp_path / "net", kind) < 1e-4
    check(net, tmp_path / "net", kind, ((1, 24, 160, 224),))


@pytest.mark.full
def test_temporal_groups_keep_their_frames(tmp_path: Path) -> None:
    net, _ = network("i3d_r50", nonlocal_blocks=5, geometry="sparse", norm="frozen", nonlocal_groups={"res3": 2})
    assert export(net, tmp_path / "net", "torch") < 1e-4
    check(net, tmp_path / "net", "torch", ((1, 4, 96, 128),))
