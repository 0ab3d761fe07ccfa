"""mmaction2 and pytorchvideo, run for real."""

import sys
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nlnet.checkpoints.mmconfig import read_config


def randomise(net: nn.Module, seed: int = 0, *, embeddings: float = 0.2) -> nn.Module:
    """Weights, statistics and scales as after training, so that every part shows in the logits; evaluation mode.

    The last convolution of a residual branch (conv3, in pytorchvideo conv_c) and a non-local block's embeddings are
    smaller, or the sum of many branches would grow until the smallest rounding shows. Pass still smaller `embeddings`
    for the dot product, which is of third degree.
    """
    gains = {"conv3": 0.3, "conv_c": 0.3, "theta": embeddings, "phi": embeddings}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.1, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 1.1, generator=generator)
            elif isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
                gain = next((value for part, value in gains.items() if part in name), 1)
                module.weight.normal_(0, gain * (2 / module.weight[0].numel()) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
    return net.eval()


class Recognizer(nn.Module):
    """mmaction2's backbone and head under the names they have in its checkpoints."""

    def __init__(self, backbone: nn.Module, cls_head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.cls_head = backbone, cls_head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cls_head(self.backbone(x))


def mmaction2(config: str, **backbone: Any) -> tuple[nn.Module, Path]:
    """The network of one of mmaction2's own configuration files ("i3d/NAME" without ".py"), and that file."""
    models = _import_mmaction2()
    package = Path(sys.modules["mmaction"].__file__ or "").parent
    file = package / ".mim" / "configs" / "recognition" / f"{config}.py"
    settings: Mapping[str, Any] = read_config(file)["model"]
    plain = {
        k: v for k, v in settings["backbone"].items() if k not in ("type", "pretrained", "pretrained2d")
    } | backbone
    head = {k: v for k, v in settings["cls_head"].items() if k not in ("type", "average_clips")}
    make = getattr(models.backbones, settings["backbone"]["type"])
    return Recognizer(make(**plain), models.heads.I3DHead(**head)), file


def _import_mmaction2() -> types.ModuleType:
    pytest.importorskip("mmcv", reason="mmcv-lite is installed by `make peers`")
    # its wheel lacks this module, which one of its localisers imports
    for name in ("mmaction.models.localizers.drn", "mmaction.models.localizers.drn.drn"):
        stub = sys.modules.setdefault(name, types.ModuleType(name))
        stub.__path__ = []  # type: ignore[attr-defined]
        stub.DRN = object  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("mmaction.models", reason="mmaction2 is installed by `make peers`")
