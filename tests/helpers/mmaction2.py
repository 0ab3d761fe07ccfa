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
    package = Path(sys.modules["mmaction"].__file__ or "").parent
    file = package / ".mim" / "configs" / "recognition" / f"{config}.py"
    settings: Mapping[str, Any] = read_config(file)["model"]
    plain = {k: v for k, v in settings["backbone"].items() if k not in ("type", "pretrained", "pretrained2d")}
    head = {k: v for k, v in settings["cls_head"].items() if k not in ("type", "average_clips")}
    make = getattr(models.backbones, settings["backbone"]["type"])
    return Recognizer(make(**plain | backbone), models.heads.I3DHead(**head)), file


def module(name: str) -> types.ModuleType:
    """One of its modules. Raises ImportError where it is not installed."""
    # its wheel lacks this module, which one of its localizers imports
    for missing in ("mmaction.models.localizers.drn", "mmaction.models.localizers.drn.drn"):
        stub = sys.modules.setdefault(missing, types.ModuleType(missing))
        vars(stub).update(__path__=[], DRN=object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
