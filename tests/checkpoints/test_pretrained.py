"""Networks from runs: folder, checkpoint, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from nlnet import build_model, from_pretrained
from nlnet.errors import UserError
from nlnet.runs.demo import load


def checkpoint(path: Path, **changed: Any) -> torch.nn.Module:
    """What a run of the demo writes: its configuration, and the task's weights, whose network is `net`."""
    cfg = load(["experiment=charades_nl", "size=demo"])
    settings = OmegaConf.to_container(cfg, resolve=True)
    arguments = {key: value for key, value in settings["model"].items() if key != "_target_"}
    net = build_model(**arguments, num_classes=5)
    state = {f"net.{key}": value for key, value in net.state_dict().items()} | {"metrics.total": torch.tensor(3)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "hyper_parameters": settings, "epoch": 1} | changed, path)
    return net.eval()


def test_a_runs_folder_and_its_checkpoints(tmp_path: Path) -> None:
    best = checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    last = checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    x = torch.randn(2, 3, 8, 32, 32)
    for path, net in ((tmp_path, best), (tmp_path / "checkpoints" / "last.ckpt", last)):
        loaded = from_pretrained(path)
        assert not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(x), net(x))
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    assert torch.equal(from_pretrained(str(tmp_path)).fc.weight, last.fc.weight)


def test_what_is_no_network_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with pytest.raises(UserError, match="there is no such file"):
        from_pretrained(path)
    with pytest.raises(UserError, match=r"no checkpoints/best\.ckpt"):
        from_pretrained(tmp_path)
    torch.save({"stem.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="nlnet-convert"):
        from_pretrained(path)
    checkpoint(path, hyper_parameters={"model": {"_target_": "mine.Net"}})
    with pytest.raises(UserError, match=r"mine\.Net.*not one of nlnet\.build_model's"):
        from_pretrained(path)
    checkpoint(path, hyper_parameters={"model": {"_target_": "nlnet.build_model", "name": "i3d_demo"}})
    with pytest.raises(UserError, match="not those of the network"):
        from_pretrained(path)
