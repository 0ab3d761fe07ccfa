"""SlowFast's C2D, I3D and Slow networks (`.pyth`), with or without non-local blocks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlnet.checkpoints.sources.settings import Keys, converted, in_weights, only, settle, without_effect
from nlnet.checkpoints.sources.source import NORM, Rules, Source, by_stage, leaves, read_torch
from nlnet.errors import UserError
from nlnet.reading import parse_yaml, read_yaml

_PAIRWISE = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}
_POOL2 = {"c2d": 2, "i3d": 2, "2d": 1, "c2d_nopool": 1, "i3d_nopool": 1, "slow": 1}
"""The frames that the pool after res2 spans, by MODEL.ARCH."""

_DEFAULTS: Mapping[str, Any] = {"GROUP": 1, "POOL": (1, 2, 2)}

SECTIONS: Mapping[str, Keys] = {
    "MODEL": {
        "MODEL_NAME": only("ResNet", "ResNet_nopool"),
        "ARCH": converted(None),
        "NUM_CLASSES": in_weights(400),
        "HEAD_ACT": without_effect("softmax"),  # it comes after the logits
        "DROPOUT_RATE": without_effect(0.5),
        "DROPCONNECT_RATE": without_effect(0.0),
        "FC_INIT_STD": without_effect(0.01),
        "LOSS_FUNC": without_effect(),
        "SINGLE_PATHWAY_ARCH": without_effect(),
        "MULTI_PATHWAY_ARCH": without_effect(),
        "ACT_CHECKPOINT": without_effect(),
        "DETACH_FINAL_FC": without_effect(),
        "FROZEN_BN": without_effect(),
        "FP16_ALLREDUCE": without_effect(),
    },
    "RESNET": {
        "DEPTH": in_weights(50),
        "WIDTH_PER_GROUP": in_weights(64),
        "NUM_BLOCK_TEMP_KERNEL": in_weights(),
        "TRANS_FUNC": only("bottleneck_transform"),
        "NUM_GROUPS": only(1),
        "STRIDE_1X1": only(False),
        "SPATIAL_STRIDES": converted(((1,), (2,), (2,), (2,))),
        "SPATIAL_DILATIONS": converted(((1,), (1,), (1,), (1,))),
        "INPLACE_RELU": without_effect(True),
        "ZERO_INIT_FINAL_BN": without_effect(False),
        "ZERO_INIT_FINAL_CONV": without_effect(False),
    },
    "NONLOCAL": {
        "LOCATION": in_weights(((()),) * 4),
        "GROUP": converted(((_DEFAULTS["GROUP"],),) * 4),
        "INSTANTIATION": converted("dot_product"),
        "POOL": converted(((_DEFAULTS["POOL"],),) * 4),
    },
    "BN": {
        "NORM_TYPE": only("batchnorm", "sync_batchnorm", "sync_batchnorm_apex"),
        "EPSILON": only(1e-5),
        "MOMENTUM": without_effect(),
        "NUM_SPLITS": without_effect(),
        "NUM_SYNC_DEVICES": without_effect(),
        "GLOBAL_SYNC": without_effect(),
        "USE_PRECISE_STATS": without_effect(),
        "NUM_BATCHES_PRECISE": without_effect(),
        "WEIGHT_DECAY": without_effect(),
    },
    "DETECTION": {
        "ENABLE": converted(False),
        # of the classifier of regions, which is left over
        "ALIGNED": without_effect(),
        "SPATIAL_SCALE_FACTOR": without_effect(),
        "ROI_XFORM_RESOLUTION": without_effect(),
    },
}
"""The sections of a configuration that belong to the network, with SlowFast's defaults."""

SHARED: Keys = {
    "NUM_FRAMES": converted(8),
    "INPUT_CHANNEL_NUM": in_weights(),
    "TRAIN_CROP_SIZE": without_effect(),  # the classifier's window is the whole map of a training clip
}
"""What the network reads of the section DATA, the rest of which is the data's."""


def read(path: Path, config: Path | None = None) -> Source:
    """A training checkpoint ({"model_state", "cfg", ...}) or its state dict, with `config` its YAML.

    pool1 keeps all frames and is padded; blocks pool before phi and g, scale the softmax and have a batch norm. What
    else a network does is in the configuration only; without one it is as the released C2D, I3D and Slow have it. A
    network that looks at regions (DETECTION.ENABLE) is converted without its classifier.

    Raises UserError for a network with two pathways, and for settings that our networks do not have.
    """
    tensors, beside = read_torch(path, "model_state")
    if any("pathway1_" in key for key in tensors):
        raise UserError(f"{path}: a SlowFast network with two pathways; only C2D, I3D and Slow can be converted")
    text = beside.get("cfg")
    settings = read_yaml(config) if config else parse_yaml(text, f"{path}, cfg") if isinstance(text, str) else None
    model: dict[str, Any] = {"geometry": "sparse", "pool1_padding": 1, "scale": True}
    model["nonlocal_options"] = {"preset": "official"}
    apart: Rules = ()
    if settings is not None:
        model |= arguments(settings, str(config or path))
        apart = regions(settings)
    unknown = {"pairwise": "It is NONLOCAL.INSTANTIATION of its configuration: give config=FILE.yaml or pairwise."}
    return Source(tensors, _rules(), model, unknown, apart=apart)


def arguments(given: Any, where: str) -> dict[str, Any]:
    """Those of `build_model` for a whole configuration. Raises UserError for what our networks do not have."""
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: expected a configuration of SlowFast, with the sections {', '.join(SECTIONS)}")
    settings = {name: settle(given.get(name), keys, where, name) for name, keys in SECTIONS.items()}
    of_data: Any = given.get("DATA")
    shared = {key: value for key, value in of_data.items() if key in SHARED} if isinstance(of_data, Mapping) else {}
    data = settle(shared, SHARED, where, "DATA")
    arch = settings["MODEL"]["ARCH"]
    if arch not in (*_POOL2, None):
        raise UserError(f"{where}: MODEL.ARCH={arch}: only {', '.join(_POOL2)} can be converted")
    # without its name the kernels say which network it is, and that has its own pool
    model: dict[str, Any] = {} if arch is None else {"pool2_frames": _POOL2[arch]}
    model |= by_stage("spatial_strides", settings["RESNET"]["SPATIAL_STRIDES"], (1, 2, 2, 2), where)
    model |= by_stage("dilations", settings["RESNET"]["SPATIAL_DILATIONS"], (1, 1, 1, 1), where)
    return model | _blocks(settings["NONLOCAL"], data["NUM_FRAMES"], model.get("pool2_frames"), where)


def regions(given: Mapping[str, Any]) -> Rules:
    """The keys of a classifier of regions, each with why it is left over; none for a network that looks at clips."""
    detection = given.get("DETECTION")
    if not isinstance(detection, Mapping) or not detection.get("ENABLE"):
        return ()
    why = "it classifies regions (DETECTION.ENABLE), and not the mean of the map"
    return [(r"head\.projection\.(weight|bias)", why), (r"pred_[wb]", why)]


def _blocks(block: Mapping[str, Any], frames: int, pool2: int | None, where: str) -> dict[str, Any]:
    name = block["INSTANTIATION"]
    if name not in _PAIRWISE:
        raise UserError(f"{where}: NONLOCAL.INSTANTIATION={name}; expected one of {', '.join(_PAIRWISE)}")
    model: dict[str, Any] = {"pairwise": _PAIRWISE[name]}
    stages = [i for i, location in enumerate(block["LOCATION"]) if leaves(location)]
    pools = {_of_stage("POOL", block, i, where) for i in stages}
    if pools - {(1, 2, 2), (1, 1, 1)} or len(pools) > 1:
        raise UserError(f"{where}: NONLOCAL.POOL={block['POOL']}: only 1x2x2 or 1x1x1 for all blocks can be converted")
    if pools == {(1, 1, 1)}:
        model["subsample"] = False
    groups = {i: n for i in stages if (n := _of_stage("GROUP", block, i, where)) != 1}
    if groups and pool2 is None:
        raise UserError(f"{where}: NONLOCAL.GROUP={block['GROUP']}: how many frames a group has depends on MODEL.ARCH")
    lengths = {i: frames if i == 0 else frames // (pool2 or 1) for i in groups}
    if any(not isinstance(n, int) or n < 1 or lengths[i] % n for i, n in groups.items()):
        raise UserError(f"{where}: NONLOCAL.GROUP={block['GROUP']} does not divide the frames of NUM_FRAMES={frames}")
    # SlowFast counts the groups, we the frames in one
    return model | ({"nonlocal_groups": {f"res{i + 2}": lengths[i] // n for i, n in groups.items()}} if groups else {})


def _of_stage(key: str, block: Mapping[str, Any], stage: int, where: str) -> Any:
    """What NONLOCAL has for the only pathway of a stage; SlowFast's default for a stage that is not listed."""
    listed = block[key]
    try:
        return listed[stage][0] if stage < len(listed) else _DEFAULTS[key]
    except (LookupError, TypeError):
        raise UserError(f"{where}: NONLOCAL.{key}={listed}: expected a list of lists for each stage") from None


def _rules() -> Rules:
    rules = [
        (r"s1\.pathway0_stem\.conv\.weight", "stem.conv.weight"),
        (rf"s1\.pathway0_stem\.bn\.{NORM}", r"stem.bn.\1"),
        (r"s(\d)\.pathway0_res(\d+)\.branch1\.weight", r"res\1.\2.downsample.0.weight"),
        (rf"s(\d)\.pathway0_res(\d+)\.branch1_bn\.{NORM}", r"res\1.\2.downsample.1.\3"),
        (r"s(\d)\.pathway0_nonlocal(\d+)\.conv_(theta|phi|g|out)\.(weight|bias)", r"res\1.\2_nonlocal.\3.\4"),
        (rf"s(\d)\.pathway0_nonlocal(\d+)\.bn\.{NORM}", r"res\1.\2_nonlocal.norm.\3"),
        (r"head\.projection\.(weight|bias)", r"fc.\1"),
    ]
    for number, letter in enumerate("abc", start=1):
        rules.append((rf"s(\d)\.pathway0_res(\d+)\.branch2\.{letter}\.weight", rf"res\1.\2.conv{number}.weight"))
        rules.append((rf"s(\d)\.pathway0_res(\d+)\.branch2\.{letter}_bn\.{NORM}", rf"res\1.\2.bn{number}.\3"))
    return rules
