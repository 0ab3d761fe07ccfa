"""torchvision's 2-D ResNet-50 and 101 (and ResNets of other libraries with the same names)."""

from pathlib import Path

from nlnet.checkpoints.sources.source import NORM, Rules, Source, bottleneck_rules, read_torch


def read(path: Path) -> Source:
    """An image network as a C2D that sees single frames; with `name="i3d_r50"` and the like inflated into that."""
    tensors, _ = read_torch(path, "state_dict", "model")
    return Source(tensors, _rules(), {"geometry": "sparse", "pool1_padding": 1})


def _rules() -> Rules:
    rules = [("conv1.weight", "stem.conv.weight"), (rf"bn1\.{NORM}", r"stem.bn.\1"), (r"fc\.(weight|bias)", r"fc.\1")]
    for stage in (2, 3, 4, 5):
        rules += bottleneck_rules(rf"layer{stage - 1}\.(\d+)", stage)
    return rules
