"""The table of networks in docs/insertion.md: complete, what its JSON says, and what comes out today."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "insertion_table.py"
QUICK = ["torchvision.resnet", "torchvision.squeezenet"]

# torchvision builds some of its networks with settings of its own earlier versions.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def script() -> Any:
    spec = importlib.util.spec_from_file_location("insertion_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = script()
ROWS = {row["family"]: row for row in json.loads(TABLE.RESULTS.read_text(encoding="utf-8"))["rows"]}


def test_every_family_of_torchvision_and_twenty_of_timm_are_there() -> None:
    models = pytest.importorskip("torchvision").models
    rooms = {"torchvision.models", "torchvision.models.video", "torchvision.models.segmentation"}
    rooms.add("torchvision.models.detection")
    builders = {models.get_model_builder(name).__module__ for name in models.list_models()}
    wanted = {module.removeprefix("torchvision.models.") for module in builders if module.rpartition(".")[0] in rooms}
    assert wanted >= {"resnet", "video.mvit", "detection.mask_rcnn", "segmentation.fcn"}
    assert {name.removeprefix("torchvision.") for name in ROWS if name.startswith("torchvision.")} == wanted
    assert len([name for name in ROWS if name.startswith("timm.")]) >= 20


def test_the_page_shows_the_results() -> None:
    text = (ROOT / "docs" / "insertion.md").read_text(encoding="utf-8")
    assert TABLE.page(text, ROWS.values()) == text


@pytest.mark.parametrize("family", ROWS)
def test_every_row_is_right(family: str) -> None:
    row = ROWS[family]
    assert (row["identity"], row["removed"], row["learns"]) == (True, True, True)
    assert row["compiles"] in (True, "as before")


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.full) for f in ROWS])
def test_a_row_comes_out_again(family: str) -> None:
    """All of it but the compilation, which takes most of the time and has tests of its own."""
    pytest.importorskip(family.partition(".")[0], reason="timm is not a part of this package's environment")
    _, model, inputs = TABLE.made(family)
    found = TABLE.measured(model, inputs, ROWS[family]["after"], compiled=False)
    assert found == {key: ROWS[family][key] for key in found}
    assert set(found) == {"layout", "dims", "channels", "added", "identity", "learns", "removed"}
    torch.manual_seed(0)
