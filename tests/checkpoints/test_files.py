"""The one reader of files: every caller refuses every kind of bad file, says which it is, and runs nothing of it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.detection import demo_net
from nlnet import build_model, from_pretrained
from nlnet.checkpoints import convert
from nlnet.checkpoints.detection import load_backbone, load_detector
from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.inflate import inflate_weights
from nlnet.checkpoints.weights import load_weights
from nlnet.cli.predict import settings
from nlnet.config.run_config import load_run_config
from nlnet.errors import UserError
from nlnet.prediction.predict import predict


class Touch:
    """Pickled, it creates the file `executed` when it is read."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (Path("executed"),)


def saved(content: Any, path: Path, **options: Any) -> None:
    torch.save(content, path, **options)


def cut(path: Path) -> None:
    saved({"state_dict": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:1500])


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (lambda path: saved({"state_dict": {}, "more": Touch()}, path), "nothing else in it is run: .*Unsupported"),
    "code, old format": (
        lambda path: saved({"more": Touch()}, path, _use_new_zipfile_serialization=False),
        "nothing else in it is run: .*Unsupported",
    ),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps({"a": Touch()}, protocol=2)), "nothing else in it is run"),
    "a page": (lambda path: path.write_bytes(b"<html>"), "not a checkpoint of tensors and plain values"),
    "empty": (lambda path: path.write_bytes(b""), "ends too early or is empty"),
    "cut off": (cut, "not a checkpoint of tensors and plain values.*zip archive"),
    "a list": (lambda path: saved([torch.zeros(1)], path), "holds a list, not weights by name"),
    "a tensor": (lambda path: saved(torch.zeros(1), path), "holds a Tensor, not weights by name"),
    "none": (lambda path: None, "there is no such file"),
}


def network() -> Any:
    return build_model("c2d_demo", num_classes=2)


CALLERS: dict[str, Callable[[str], Any]] = {
    "read_file": read_file,
    "from_pretrained": from_pretrained,
    "convert": lambda path: convert(path, "slowfast"),
    "load_weights": lambda path: load_weights(network(), path),
    "inflate_weights": lambda path: inflate_weights(network(), path),
    "load_detector": lambda path: load_detector(demo_net(), path),
    "load_backbone": lambda path: load_backbone(demo_net(), path),
    "predict": lambda path: predict(settings([f"ckpt_path={path}", "source=x", "device=cpu"])),
    "eval": lambda path: load_run_config([f"ckpt_path={path}", "data.shards=x"]),
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("kind", BAD)
def test_every_caller_refuses_it(kind: str, caller: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run" / "checkpoints" / "bad.pth"
    path.parent.mkdir(parents=True)
    write, message = BAD[kind]
    write(path)
    with pytest.raises(UserError, match=message) as raised:
        CALLERS[caller](str(path))
    assert str(raised.value).startswith(("ckpt_path=" if caller in ("predict", "eval") else "") + str(path))
    assert not (tmp_path / "executed").exists()


def test_a_message_has_the_key_and_the_advice_of_its_caller(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(UserError, match=rf"^init\.checkpoint={tmp_path}/x: not a checkpoint.*; do this$"):
        read_file(tmp_path / "x", "init.checkpoint=", advice="do this")
    with pytest.raises(UserError, match="this is a folder"):
        read_file(tmp_path)


def test_the_message_does_not_say_how_to_load_it_unsafely(tmp_path: Path) -> None:
    saved({"a": Path("x")}, tmp_path / "x.pth")
    with pytest.raises(UserError) as raised:
        read_file(tmp_path / "x.pth")
    assert "weights_only" not in str(raised.value)
    assert "Path" in str(raised.value)


def test_tensors_come_to_the_cpu_and_names_of_an_earlier_version_become_todays(tmp_path: Path) -> None:
    old = {"optim": {"undecayed": "norms"}, "model": {"_target_": "nlnet.models.build_model", "name": "c2d_demo"}}
    content = {"state_dict": {"a": torch.ones(2)}, "hyper_parameters": old, "callbacks": {"Accounting": {"read": 3}}}
    saved(content, tmp_path / "x.ckpt")
    read = read_file(tmp_path / "x.ckpt")
    assert torch.equal(read["state_dict"]["a"], torch.ones(2))
    assert read["hyper_parameters"] == {
        "optim": {"no_weight_decay": "norms"},
        "model": {"_target_": "nlnet.build_model", "name": "c2d_demo"},
    }
    assert read["callbacks"] == {"SampleCounter": {"read": 3}}
    for settings_of_others in ({}, {"a.b": 1, "a": 2}, {"lr": 0.1}):
        saved({"state_dict": {}, "hyper_parameters": settings_of_others}, tmp_path / "y.ckpt")
        assert read_file(tmp_path / "y.ckpt")["hyper_parameters"] == settings_of_others
