"""torchvision's 2-D ResNet-50 and 101 (and ResNets of other libraries with the same names)."""

from pathlib import Path

from nlnet.checkpoints.source import NORM, Rules, Source, read_torch


def read(path: Path, config: Path | None = None) -> Source:
    """An image network as a C2D that sees single frames; with `name="i3d_r50"` and the like inflated into that."""
    tensors, _ = read_torch(path, "state_dict", "model")
    return Source(tensors, _rules(), {"geometry": "sparse", "pool1_padding": 1})


def _rules() -> Rules:
    rules = [("conv1.weight", "stem.conv.weight"), (rf"bn1\.{NORM}", r"stem.bn.\1"), (r"fc\.(weight|bias)", r"fc.\1")]
    for stage in (2, 3, 4, 5):
        block = rf"layer{stage - 1}\.(\d+)"
        rules.append((rf"{block}\.conv(\d)\.weight", rf"res{stage}.\1.conv\2.weight"))
        rules.append((rf"{block}\.bn(\d)\.{NORM}", rf"res{stage}.\1.bn\2.\3"))
        rules.append((rf"{block}\.downsample\.0\.weight", rf"res{stage}.\1.downsample.0.weight"))
        rules.append((rf"{block}\.downsample\.1\.{NORM}", rf"res{stage}.\1.downsample.1.\2"))
    return rules
