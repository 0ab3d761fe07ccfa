"""The one report of weights that do not fit: every caller names the keys, their shapes, and how many more there are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.detection import demo_net
from nlnet import build_model, from_pretrained
from nlnet.checkpoints.detection import load_backbone, load_detector
from nlnet.checkpoints.mismatch import and_new, check_fits
from nlnet.checkpoints.weights import load_weights
from nlnet.errors import UserError
from nlnet.prediction.images import Detector

SETTINGS = {"name": "c2d_demo", "num_classes": 3}
DETECTOR = {"_target_": "x", "name": "mask_rcnn", "backbone": "demo", "norm": "batch"}
BACKBONE = "backbone.body."


def network() -> Any:
    return build_model(**SETTINGS)  # type: ignore[arg-type]


def converted(state: dict[str, Tensor], path: Path) -> Any:
    torch.save({"model": SETTINGS, "state_dict": state}, path)
    return from_pretrained(path)


def weights(state: dict[str, Tensor], path: Path) -> Any:
    torch.save(state, path)
    return load_weights(network(), path, keep_classifier=True)


def detector(state: dict[str, Tensor], path: Path) -> Any:
    torch.save(state, path)
    return load_detector(demo_net(), path)


def backbone(state: dict[str, Tensor], path: Path) -> Any:
    body = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    torch.save(body, path)
    return load_backbone(demo_net(), str(path))


def predicting(state: dict[str, Tensor], path: Path) -> Any:
    settings = {"model": DETECTOR, "data": {"eval_short_side": 64, "max_size": 96}}
    content = {"hyper_parameters": settings, "classes": list("abc"), "state_dict": {}}
    content["state_dict"] = {f"net.{key}": value for key, value in state.items()}
    return Detector(content, str(path), torch.device("cpu"))


CALLERS: dict[str, tuple[Callable[..., Any], Callable[[], Any], str, str]] = {
    # the caller, its network, a key to spoil, what the message calls the network
    "from_pretrained": (converted, network, "res2.0.conv1.weight", "the network it names"),
    "load_weights": (weights, network, "res2.0.conv1.weight", "C2D-demo"),
    "load_detector": (detector, demo_net, f"{BACKBONE}conv1.weight", "Mask R-CNN demo-FPN"),
    "load_backbone": (backbone, demo_net, f"{BACKBONE}conv1.weight", "Mask R-CNN demo-FPN"),
    "predict": (predicting, demo_net, f"{BACKBONE}conv1.weight", "the network it names"),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_every_caller_names_what_does_not_fit(caller: str, tmp_path: Path) -> None:
    call, make, key, title = CALLERS[caller]
    good, path = make().state_dict(), tmp_path / "x.pth"
    call(good, path)
    shown = key.removeprefix(BACKBONE)
    prefix = "ckpt_path=" if caller == "predict" else ""
    shape = tuple(good[key].shape)
    for state, problem in (
        ({name: value for name, value in good.items() if name != key}, f"{shown} is missing"),
        (good | {key: torch.zeros(5)}, f"{shown} is (5,), in {title} {shape}"),
        (good | {f"{key}_more": torch.zeros(1)}, f"{shown}_more is not in {title}"),
        (good | {f"{key}_{k}": torch.zeros(1) for k in range(9)}, "; and 5 more; "),
    ):
        with pytest.raises(UserError) as raised:
            call(state, path)
        message = str(raised.value)
        assert message.startswith(f"{prefix}{path}: its weights are not those of {title}: ")
        assert problem in message
        assert "; give " in message or "; copy " in message or "; other systems' files " in message


def test_what_fits_and_what_may_be_new() -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(3)}
    check_fits({"a": torch.ones(2), "b": torch.ones(3)}, own, "x")
    check_fits({"a": torch.ones(2)}, own, "x", new=["b"])
    with pytest.raises(UserError, match=r"x: .*: b is missing; give the model\.\* settings.*config\.yaml"):
        check_fits({"a": torch.ones(2)}, own, "x")
    with pytest.raises(UserError, match=r"b is \(2,\), in this network \(3,\)"):
        check_fits({"a": torch.ones(2), "b": torch.ones(2)}, own, "x", new=["b"])
    with pytest.raises(UserError, match=r"a is a int, not a tensor, in this network \(2,\)"):
        check_fits({"a": 1, "b": torch.ones(3)}, own, "x")


def test_the_sentence_about_what_is_new() -> None:
    assert and_new([]) == ""
    assert and_new(["a", "b"]) == "; new: a, b"
    assert and_new(list("abcdefg")) == "; new: a, b, c, d, e, f, g"
    assert and_new(list("abcdefgh")) == "; new: a, b, c, d, e, f, 2 more"
