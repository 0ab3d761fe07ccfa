"""Networks from runs: folder, checkpoint, networks of somebody's package, and what is refused."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from nlnet import build_model, from_pretrained
from nlnet.checkpoints.pretrained import run_state
from nlnet.config.resolve import load
from nlnet.errors import UserError


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


def test_the_weights_of_a_run_and_of_a_converted_file_have_the_names_of_a_runs() -> None:
    weights = {"a": 1}
    assert run_state({"state_dict": {"net.a": 1, "metrics.total": 2}}, "x") == {"net.a": 1, "metrics.total": 2}
    assert run_state({"state_dict": weights, "model": {"name": "c2d_demo"}}, "x") == {"net.a": 1}
    with pytest.raises(UserError, match=r"x: neither a run's checkpoint nor a converted file; .*nlnet-convert"):
        run_state(weights, "x")


# ---- networks of somebody's package

PACKAGE = {
    "mine/__init__.py": "",
    "mine/network.py": """
        import os
        from pathlib import Path

        import torch
        from torch import nn
        from torch.nn import Linear

        Path("imported").touch()


        class Net(nn.Module):
            def __init__(self, num_classes, width=3, shape=None):
                super().__init__()
                self.layer = nn.Linear(width, num_classes)
                self.shape = shape

            def forward(self, x):
                return self.layer(x.mean((3, 4)).mean(2))

            @staticmethod
            def wide(num_classes):
                return Net(num_classes, 6)


        def build(num_classes, width=3, shape=None):
            return Net(num_classes, width, shape)


        def fixed():
            return Net(2)


        def broken(num_classes):
            raise ValueError("not today")


        def no_network():
            return 3


        value = 3
        """,
    "mine/other.py": "from mine.network import Net\n",
    "mine2.py": "from mine.network import build\n",
}
MINE = {"_target_": "mine.network.build", "width": 3, "shape": [1, {"a": None}]}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds a package which can be imported, and is the current one."""
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] in ("mine", "mine2")]:
        monkeypatch.delitem(sys.modules, module)
    return tmp_path


def run_of(model: dict[str, Any], path: Path, width: int = 3, classes: int = 4) -> dict[str, torch.Tensor]:
    """The checkpoint of a run whose network is a `mine.network.Net`; returns the network's weights."""
    state = {"layer.weight": torch.randn(classes, width), "layer.bias": torch.randn(classes)}
    content = {"state_dict": {f"net.{key}": value for key, value in state.items()}}
    torch.save(content | {"hyper_parameters": {"model": model}, "classes": list("abcd")[:classes]}, path)
    return state


@pytest.mark.parametrize("allow", [["mine"], ("torch", "mine.network"), "mine"])
def test_a_network_of_an_allowed_package(allow: Sequence[str], mine: Path) -> None:
    state = run_of(MINE, mine / "x.ckpt")
    net: Any = from_pretrained(mine / "x.ckpt", allow_targets=allow)
    assert not net.training
    assert type(net).__module__ == "mine.network"
    assert net.shape == [1, {"a": None}]
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert net(torch.randn(2, 3, 4, 5, 5)).shape == (2, 4)


@pytest.mark.parametrize(
    ("model", "width", "classes"),
    [
        ({"_target_": "mine.network.Net", "_convert_": "all"}, 3, 4),
        ({"_target_": "mine.network.Net.wide"}, 6, 4),
        ({"_target_": "mine.other.Net"}, 3, 4),  # of the package, if of another module
        ({"_target_": "mine.network.fixed"}, 3, 2),  # which takes no num_classes
        ({"_target_": "mine.network.fixed", "dropout": 0.0}, 3, 2),  # as debug=overfit has it
    ],
)
def test_classes_methods_and_functions(model: dict[str, Any], width: int, classes: int, mine: Path) -> None:
    run_of(model, mine / "x.ckpt", width, classes)
    net: Any = from_pretrained(mine / "x.ckpt", allow_targets=["mine"])
    assert net.layer.weight.shape == (classes, width)


REFUSED: list[tuple[dict[str, Any], Sequence[str], str]] = [
    (MINE, (), r"network \(mine\.network\.build\) is not one of nlnet\.build_model's; .*allow_targets=\[mine\]"),
    (MINE, ["min", "mine.net", "mine.network.build.x", ""], r"allow it with allow_targets=\[mine\]"),
    ({"_target_": "os.system"}, ["mine"], r"allow it with allow_targets=\[os\]"),
    ({"_target_": "mine.network.os.system"}, ["mine"], "neither a function nor a class"),
    ({"_target_": "mine.network.os.popen"}, ["mine"], r"is defined in os, which is not in mine"),
    ({"_target_": "mine.network.torch.load"}, ["mine"], "is defined in torch.serialization"),
    ({"_target_": "mine.network.Linear"}, ["mine"], "is defined in torch.nn"),
    ({"_target_": "mine2.build"}, ["mine2"], "is defined in mine.network, which is not in"),
    ({"_target_": "mine.network.value"}, ["mine"], "is a int, neither a function nor a class"),
    ({"_target_": "mine.network"}, ["mine"], "is a module, neither"),
    ({"_target_": "mine.network.lost"}, ["mine"], r"cannot be imported here: .*mine\.network"),
    ({"_target_": "mine.network.Net.lost"}, ["mine"], r"there is no mine\.network\.Net\.lost"),
    ({"_target_": "gone.build"}, ["gone"], "cannot be imported here: No module named 'gone'; install"),
    (MINE | {"shape": {"_target_": "os.getcwd"}}, ["mine"], r"model\.shape\._target_ is set, and only plain values"),
    (MINE | {"shape": [1, {"_target_": "os.getcwd"}]}, ["mine"], r"model\.shape\.1\._target_ is set"),
    (MINE | {"_args_": [1]}, ["mine"], r"model\._args_ is set"),
    (MINE | {"_partial_": True}, ["mine"], r"model\._partial_ is set"),
    (MINE | {"shape": torch.zeros(1)}, ["mine"], r"model\.shape=.* is a Tensor, and settings are plain"),
    (MINE | {"depth": 3}, ["mine"], "cannot be built with its settings: .*unexpected keyword argument 'depth'"),
    ({"_target_": "mine.network.broken"}, ["mine"], "cannot be built with its settings: not today"),
    ({"_target_": "mine.network.no_network"}, ["mine"], r"is a int, not a torch\.nn\.Module"),
    (MINE | {"width": 5}, ["mine"], r"layer\.weight is \(4, 3\), in the network it names \(4, 5\)"),
    ({"_target_": 3}, ["mine"], "do not say which network"),
    ({}, ["mine"], "do not say which network"),
]


@pytest.mark.parametrize(("model", "allow", "message"), REFUSED)
def test_what_is_not_built(model: dict[str, Any], allow: Sequence[str], message: str, mine: Path) -> None:
    run_of(model, mine / "x.ckpt")
    with pytest.raises(UserError, match=message) as raised:
        from_pretrained(mine / "x.ckpt", allow_targets=allow)
    assert str(mine / "x.ckpt") in str(raised.value)


def test_nothing_of_a_package_that_is_not_allowed_is_imported(mine: Path) -> None:
    run_of(MINE, mine / "x.ckpt")
    with pytest.raises(UserError, match="allow_targets"):
        from_pretrained(mine / "x.ckpt", allow_targets=["nlnet", "torch"])
    assert not (mine / "imported").exists()
    from_pretrained(mine / "x.ckpt", allow_targets=["mine"])
    assert (mine / "imported").exists()
