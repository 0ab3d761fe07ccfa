"""mmaction2, run for real: its modules, and networks as its own configuration files make them."""

import importlib
import sys
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nlnet.checkpoints.sources.mmconfig import read_config


class Recognizer(nn.Module):
    """A backbone and head under the names they have in its checkpoints."""

    def __init__(self, backbone: nn.Module, cls_head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.cls_head = backbone, cls_head

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.cls_head(self.backbone(x_BCTHW))


def network(config: str, **backbone: Any) -> tuple[nn.Module, Path]:
    """The network of one of its own configuration files ("i3d/NAME" without ".py"), and that file.

    Raises ImportError where it is not installed; `make peers` installs it.
    """
    models = module("mmaction.models")
    model, file = settings(f"recognition/{config}")
    plain = {k: v for k, v in model["backbone"].items() if k not in ("type", "pretrained", "pretrained2d")}
    head = {k: v for k, v in model["cls_head"].items() if k not in ("type", "average_clips")}
    make = getattr(models.backbones, model["backbone"]["type"])
    return Recognizer(make(**plain | backbone), models.heads.I3DHead(**head)), file


def settings(config: str) -> tuple[Mapping[str, Any], Path]:
    """`model` of one of its own configuration files, and that file. Raises ImportError where it is not installed."""
    module("mmaction.models")
    package = Path(sys.modules["mmaction"].__file__ or "").parent
    file = package / ".mim" / "configs" / f"{config}.py"
    return read_config(file)["model"], file


def module(name: str) -> types.ModuleType:
    """One of its modules. Raises ImportError where it is not installed."""
    # its wheel lacks this module, which one of its localizers imports
    for missing in ("mmaction.models.localizers.drn", "mmaction.models.localizers.drn.drn"):
        stub = sys.modules.setdefault(missing, types.ModuleType(missing))
        vars(stub).update(__path__=[], DRN=object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
