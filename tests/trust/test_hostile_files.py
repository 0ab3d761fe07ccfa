"""Run folders and weight files from strangers: nothing in them is executed, asked for, or written to."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers.strangers import SECRET, Listener, watched
from nlnet.cli import eval as eval_command
from nlnet.cli import predict as predict_command
from nlnet.config.resolve import load
from nlnet.models import build_model
from nlnet.runs.train import train

SMALL = ["size=demo", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=1", "callbacks.progress=null"]
SMALL += ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]


@pytest.fixture(scope="module")
def run(charades_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest run's folder."""
    logs = tmp_path_factory.mktemp("logs")
    words = ["experiment=charades_nl", *SMALL, f"data.shards={charades_shards}", f"paths.log_dir={logs}"]
    _, objects = train(load(words))
    return objects["run_dir"]


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.close()


@pytest.fixture
def hostile(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a run folder whose config.yaml has other values at dotted keys; returns its checkpoint."""
    monkeypatch.setenv("NLNET_TEST_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubconf.py").write_text(f"import os\ndef x(*a, **k):\n    os.system('touch {tmp_path}/PWNED')\n")

    def change(*values: tuple[str, Any]) -> Path:
        folder = tmp_path / "stranger"
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "best.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
        content = yaml.safe_load((run / "config.yaml").read_text())
        for key, value in values:
            node = content
            *parents, name = key.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        return folder / "checkpoints" / "best.ckpt"

    return change


def git(folder: Path) -> dict[str, Any]:
    arguments = [str(folder), "-c", f"alias.x=!touch {folder}/PWNED; true", "x"]
    return {"_target_": "nlnet.runs.record._git", "_args_": arguments}


def check_nothing_happened(folder: Path, seen: list[tuple[str, str]], listener: Listener | None = None) -> None:
    assert not (folder / "PWNED").exists()
    assert not (folder / "outside").exists()
    assert listener is None or listener.connections == 0
    for event, what in seen:
        if event == "write":
            assert what.startswith((f"{folder}/logs/eval/", "/dev/null", "/proc/self")), what
        elif event == "subprocess.Popen":
            assert re.match(r"\('git', \['git', '-C', '[^']+', '(rev-parse|status)'", what), what
        else:
            assert str(folder) in what, (event, what)


HUB = {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "x", "source": "local"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("logger.x", HUB, r"logger\.x\._target_=torch\.hub\.load"),
        ("data.seed", "GIT", r"data\.seed"),
        ("model.nonlocal_options.norm", "GIT", r"model\.nonlocal_options\.norm"),
        (
            "callbacks.progress",
            HUB | {"_target_": "torchvision.datasets.utils.torch.hub.load"},
            r"callbacks\.progress\._target_",
        ),
        ("data.shards", "http://127.0.0.1:PORT/${oc.env:NLNET_TEST_SECRET}", "is an interpolation"),
        ("data.shards", "http://127.0.0.1:PORT/shards", "a file does not choose which hosts are asked"),
        ("data.val_shards", "s3://bucket/x-{000..009}.tar", "a file does not choose which hosts are asked"),
        ("data.val_shards", "pipe:touch PWNED; cat x", "runs a command"),
        ("extras.imports", ["hubconf"], r"extras\.imports=hubconf .*allow_targets=\[hubconf\]"),
        ("paths.run_dir", "OUTSIDE", "is a place outside of the run's folder"),
        ("logger.x", {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "OUTSIDE"}, "outside of the run"),
        ("callbacks.best.filename", "../../../outside", "outside of the run"),
        ("data.frames", 10**9, r"data\.frames=1000000000: expected a whole number"),
        ("model.nonlocal_options.inner_channels", 60_000, "weights are not those of"),
    ],
)
def test_a_run_folder_chooses_no_code_no_place_and_no_host(
    key: str,
    value: Any,
    message: str,
    hostile: Callable[..., Path],
    command: Callable[..., Any],
    listener: Listener,
    tmp_path: Path,
) -> None:
    value = git(tmp_path) if value == "GIT" else value
    if isinstance(value, str):
        value = value.replace("PORT", str(listener.port)).replace("OUTSIDE", str(tmp_path / "outside"))
    elif isinstance(value, dict) and "save_dir" in value:
        value = value | {"save_dir": str(tmp_path / "outside")}
    checkpoint = hostile((key, value))
    with watched() as seen:
        code, out, err = command(eval_command.main, f"ckpt_path={checkpoint}")
    assert code == 1
    assert re.search(message, err), err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert SECRET not in out + err
    check_nothing_happened(tmp_path, seen, listener)


def test_what_only_the_command_line_sets_is_not_taken(
    hostile: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    """The evaluation is as always: one process, written where evaluations are."""
    outside = str(tmp_path / "outside")
    checkpoint = hostile(
        ("extras.allow_targets", ["torch"]),
        ("extras.trust", True),
        ("data.cache_dir", outside),
        ("data.allow_pipe", True),
        ("data.num_workers", 1000),
        ("paths.data_dir", outside),
        ("paths.log_dir", outside),
        ("trainer.default_root_dir", outside),
        ("trainer.devices", 64),
        ("trainer.strategy", "ddp"),
    )
    with watched() as seen:
        code, out, err = command(eval_command.main, f"ckpt_path={checkpoint}")
    assert code == 0, err
    assert "val/mAP" in out
    check_nothing_happened(tmp_path, seen)
    (written,) = (tmp_path / "logs" / "eval" / "runs").glob("*/config.yaml")
    cfg = yaml.safe_load(written.read_text())
    assert not cfg["extras"]["trust"]
    assert cfg["extras"]["allow_targets"] == []
    assert cfg["trainer"]["devices"] == 1
    assert cfg["data"]["num_workers"] <= (os.cpu_count() or 1)


def test_trust_and_packages_are_typed_again(
    hostile: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    """A run with classes of the user's own is evaluated where they are allowed by name, or everything is."""
    checkpoint = hostile(("callbacks.mine", {"_target_": "helpers.signalling.SignalAt"}))
    code, _, err = command(eval_command.main, f"ckpt_path={checkpoint}")
    assert code == 1
    assert "extras.allow_targets=[helpers], or extras.trust=true" in err
    hostile(("callbacks.mine", {"_target_": "torch.nn.Identity"}))
    code, _, err = command(eval_command.main, f"ckpt_path={checkpoint}", "extras.trust=true")
    assert "is not one of nlnet's own" not in err


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Path]:
    """Makes a converted weight file with other settings."""
    monkeypatch.setenv("NLNET_TEST_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    model: dict[str, Any] = {"name": "c2d_demo", "nonlocal_blocks": 1, "num_classes": 4}
    state = build_model(**model).state_dict()

    def make(changed: dict[str, Any]) -> Path:
        content = {"model": model, "state_dict": state, "missing": [], "source": "caffe2"}
        for path, value in changed.items():
            if path.startswith("model."):
                content["model"] = {**model, path.removeprefix("model."): value}
            else:
                content[path] = value
        torch.save(content, tmp_path / "converted.pt")
        return tmp_path / "converted.pt"

    return make


@pytest.mark.parametrize(
    "changed",
    [
        {"model.nonlocal_options": "GIT"},
        {"model._target_": "nlnet.runs.record._git", "model._args_": ["."]},
        {"model.nonlocal_options": {"norm": {"_target_": "nlnet.checkpoints.sources.source.torch.hub.load"}}},
        {"model.pairwise": "${oc.env:NLNET_TEST_SECRET}"},
        {"model.name": "${oc.env:NLNET_TEST_SECRET}"},
        {"model.num_classes": 10**12},
        {"model.num_classes": 10**7, "missing": ["fc.weight", "fc.bias"]},
        {"model": {"channels": 10**6, "dims": 3}},
        {"model": {"channels": 10**30}},
        {"model.nonlocal_options": {"inner_channels": 10**8}},
        {"model.nonlocal_blocks": [["res3.0"]] * 5},
        {"model": {"x": 1}},
        {"state_dict": {"a": 1}},
        {"state_dict": {3: torch.zeros(1)}},
        {"missing": 5},
        {"missing": [[1], {}]},
    ],
)
def test_a_weight_file_fills_in_a_network_and_nothing_else(
    changed: dict[str, Any],
    weights: Callable[[dict[str, Any]], Path],
    charades_shards: Path,
    command: Callable[..., Any],
    tmp_path: Path,
) -> None:
    file = weights({key: git(tmp_path) if value == "GIT" else value for key, value in changed.items()})
    calls: list[tuple[Any, tuple[str, ...]]] = [
        (eval_command.main, ("experiment=charades_nl", "size=demo", f"data.shards={charades_shards}")),
        (predict_command.main, (f"source={charades_shards}", "frames=8", "stride=1", "crop=32", "scale=32", "limit=1")),
    ]
    for main, words in calls:
        with watched() as seen:
            code, out, err = command(main, f"ckpt_path={file}", *words)
        # An evaluation takes the number of classes from the data, and `missing` is asked of no complete file.
        harmless = changed.keys() == {"missing"} or (main is eval_command.main and "model.num_classes" in changed)
        assert code == (0 if harmless else 1), err
        assert "Traceback" not in err
        assert SECRET not in out + err
        assert not (tmp_path / "PWNED").exists()
        assert not any(event != "write" and "touch" in what for event, what in seen)
