"""gluon-cv's PyTorch I3D networks, with 0, 5 or 10 non-local blocks."""

from pathlib import Path

from nlnet.checkpoints.sources.source import NORM, Rules, Source, bottleneck_rules, read_torch


def read(path: Path) -> Source:
    """A state dict. pool1 takes every other frame; blocks attend to all positions, scale the softmax, have a norm.

    What gluon-cv calls "gaussian" is the embedded Gaussian. It saves several layers under two names.
    """
    tensors, _ = read_torch(path, "state_dict", "model")
    model = {
        "geometry": "dense",
        "pool1_padding": 1,
        "pool1_frames": 1,
        "pairwise": "embedded_gaussian",
        "subsample": False,
        "scale": True,
        "nonlocal_options": {"preset": "official"},
    }
    block = r"(res_layers\.\d\.\d+\.nonlocal_block)"
    copies = [
        (rf"{block}\.W_bn\.0\.(weight|bias)", r"\1.W.\2"),
        (rf"{block}\.W_bn\.1\.{NORM}", r"\1.bn.\2"),
        (r"head\.1\.(weight|bias)", r"fc.\1"),
    ]
    return Source(tensors, _rules(), model, copies=copies)


def _rules() -> Rules:
    rules = [
        (r"first_stage\.0\.weight", "stem.conv.weight"),
        (rf"first_stage\.1\.{NORM}", r"stem.bn.\1"),
        (r"fc\.(weight|bias)", r"fc.\1"),
    ]
    for stage in (2, 3, 4, 5):
        block = rf"res_layers\.{stage - 2}\.(\d+)"
        rules += bottleneck_rules(block, stage)
        block += r"\.nonlocal_block"
        rules.append((rf"{block}\.(theta|phi|g)\.(weight|bias)", rf"res{stage}.\1_nonlocal.\2.\3"))
        rules.append((rf"{block}\.W\.(weight|bias)", rf"res{stage}.\1_nonlocal.out.\2"))
        rules.append((rf"{block}\.bn\.{NORM}", rf"res{stage}.\1_nonlocal.norm.\2"))
    return rules
