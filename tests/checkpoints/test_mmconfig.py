"""OpenMMLab's configurations are Python: what other statements do to a value is not known, so it is not believed."""

from pathlib import Path

import pytest
import torch

from nlnet.checkpoints import convert
from nlnet.checkpoints.sources.mmconfig import parse
from nlnet.errors import UserError


@pytest.mark.parametrize(
    "statement",
    [
        "model['backbone']['style'] = 'caffe'",
        "model.update(backbone=dict(depth=101))",
        "model = build()",
        "backbone['style'] = 'caffe'",
        "model['backbone'].norm_cfg = 1",
        "for part in model: part.clear()",
        "model += 1",
        "neck = model.pop('neck')",
        "del model",
    ],
)
def test_a_model_that_is_changed_by_other_statements_is_not_believed(statement: str, tmp_path: Path) -> None:
    text = f"backbone = dict(type='ResNet3d')\nmodel = dict(backbone=backbone)\nx = 1\n{statement}\n"
    assert "model" not in parse(text, "text")
    assert parse(text, "text")["x"] == 1
    torch.save({"state_dict": {"backbone.conv1.conv.weight": torch.zeros(64, 3, 1, 7, 7)}}, tmp_path / "x.pth")
    (tmp_path / "base.py").write_text("model = dict(type='Recognizer3D', backbone=dict(type='ResNet3d'))\n")
    (tmp_path / "top.py").write_text(f"_base_ = 'base.py'\n{text}")
    with pytest.raises(UserError, match=r"top\.py: no model\.backbone of plain values"):
        convert(tmp_path / "x.pth", "mmaction2", config=tmp_path / "top.py")


def test_other_statements_leave_the_model_alone() -> None:
    text = "import os\nmodel = dict(backbone=dict(depth=50))\nroot = os.environ['X']\npipeline.append(f'{root}/x')\n"
    assert parse(text, "text") == {"model": {"backbone": {"depth": 50}}}
