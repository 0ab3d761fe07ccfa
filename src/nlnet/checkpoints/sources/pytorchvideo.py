"""pytorchvideo's c2d_r50, i3d_r50 and slow_r50 (also 101), and slow_r50_detection without its classifier."""

from pathlib import Path
from typing import Any

from nlnet.checkpoints.sources.source import NORM, Rules, Source, read_torch

_REGIONS = "detection_head.proj.weight"


def read(path: Path) -> Source:
    """A hub file ({"model_state": ...}) or a state dict. C2D and I3D pool over time after res2, which shifts the names.

    Stems keep all frames, pool1 is padded. None of its networks has non-local blocks. The detection network keeps the
    map of res4 in res5, whose kernels skip every other position. Other choices of `create_resnet` are not in its files.
    """
    tensors, _ = read_torch(path, "model_state")
    start = r"model\." if _REGIONS in tensors else ""
    pooled = not any(key.removeprefix("model.").startswith("blocks.2.") for key in tensors)
    model: dict[str, Any] = {"geometry": "sparse", "pool1_padding": 1, "pool2_frames": 2 if pooled else 1}
    if _REGIONS in tensors:
        model |= {"spatial_strides": {"res5": 1}, "dilations": {"res5": 2}}
    apart = [(r"detection_head\.proj\.(weight|bias)", "it classifies regions, and not the mean of the map")]
    return Source(tensors, [(start + key, ours) for key, ours in _rules(pooled)], model, apart=apart)


def _rules(pooled: bool) -> Rules:
    rules = [(r"blocks\.0\.conv\.weight", "stem.conv.weight"), (rf"blocks\.0\.norm\.{NORM}", r"stem.bn.\1")]
    for stage in (2, 3, 4, 5):
        block = rf"blocks\.{stage if pooled and stage > 2 else stage - 1}\.res_blocks\.(\d+)"
        rules.append((rf"{block}\.branch1_conv\.weight", rf"res{stage}.\1.downsample.0.weight"))
        rules.append((rf"{block}\.branch1_norm\.{NORM}", rf"res{stage}.\1.downsample.1.\2"))
        for number, letter in enumerate("abc", start=1):
            rules.append((rf"{block}\.branch2\.conv_{letter}\.weight", rf"res{stage}.\1.conv{number}.weight"))
            rules.append((rf"{block}\.branch2\.norm_{letter}\.{NORM}", rf"res{stage}.\1.bn{number}.\2"))
    return [*rules, (rf"blocks\.{6 if pooled else 5}\.proj\.(weight|bias)", r"fc.\1")]
