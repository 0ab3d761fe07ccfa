"""Every network that an experiment trains takes an optimizer step with its recipe's clip.

Those of 101 layers or 128 frames are stepped on the meta device, which follows shapes and types and computes nothing.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from nlnet import build_model
from nlnet.models.graphs.build import build_region_graph
from nlnet.models.graphs.network import RegionGraphNet
from nlnet.optim.parameter_groups import parameter_groups

RECIPES = yaml.safe_load((Path(__file__).parents[1] / "config" / "golden" / "recipes.yaml").read_text())


def networks() -> dict[str, tuple[dict[str, Any], int, int]]:
    """The different networks with clip length and side, each under the first experiment that has it."""
    seen: dict[str, tuple[dict[str, Any], int, int]] = {}
    for name, parts in RECIPES.items():
        if "frames" not in parts["data"]:
            continue  # images
        case = (parts["model"], parts["data"]["frames"], parts["data"]["size"])
        if case not in seen.values():
            seen[name] = case
    return seen


def take_a_step(options: dict[str, Any], frames: int, side: int, device: str) -> nn.Module:
    torch.manual_seed(0)
    build = build_region_graph if "graph" in options else build_model
    with torch.device(device):
        model: nn.Module = build(**options, num_classes=5).train()
        optimizer = torch.optim.SGD(parameter_groups(model, "norms"), lr=0.01, momentum=0.9, nesterov=True)
        clip = torch.randn(1, 3, frames, side, side)
        boxes = model.further_inputs(clip) if isinstance(model, RegionGraphNet) else {}
        logits = model(clip, *boxes.values())
        assert logits.shape == (1, 5)
        F.cross_entropy(logits, torch.zeros(1, dtype=torch.long)).backward()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None for parameter in trainable)
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("name", "blocks", "norm"), [("i3d_r50", 5, "batch"), ("slow_r50", 0, "batch"), ("c2d_r50", 1, "frozen")]
)
def test_a_step_on_a_small_clip_moves_the_network(name: str, blocks: int, norm: str) -> None:
    options = {"name": name, "nonlocal_blocks": blocks, "norm": norm, "geometry": "sparse", "dropout": 0.0}
    torch.manual_seed(0)
    start = build_model(**options, num_classes=5).state_dict()
    moved = take_a_step(options, 4, 64, "cpu").state_dict()
    assert all(value.isfinite().all() for value in moved.values())
    unlike = {key for key, value in moved.items() if not torch.equal(value, start[key])}
    assert {"fc.weight", "fc.bias"} <= unlike
    assert ("stem.bn.weight" in unlike) == (norm == "batch")
    opened = {"batch": "norm.weight", "frozen": "out.weight"}[norm]
    assert sum(key.endswith(f"_nonlocal.{opened}") for key in unlike) == blocks


@pytest.mark.full
@pytest.mark.parametrize("experiment", networks())
def test_a_step_at_full_size(experiment: str) -> None:
    options, frames, side = networks()[experiment]
    shapes_only = options["name"].endswith("r101") or frames == 128
    model = take_a_step(options, frames, side, "meta" if shapes_only else "cpu")
    if not shapes_only:
        assert all(value.isfinite().all() for value in model.state_dict().values())
