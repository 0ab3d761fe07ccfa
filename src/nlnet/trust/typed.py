"""What the values of settings may be, beside what `nlnet.trust.schema` says of those that a file may hold.

The schema is of files: it is closed, and refuses what it does not know. This is for what is typed: it adds the settings
that no file has, and says nothing of names it does not know, which may be of somebody's own class.
"""

import re
from collections.abc import Mapping

from nlnet.trust.schema import (
    COUNT,
    NOTHING,
    OWN,
    PLACE,
    WORD,
    YES_NO,
    Field,
    either,
    number,
    several,
    text,
    whole,
)


def one_of(*words: str) -> Field:
    return text("|".join(words), f"{', '.join(words[:-1])} or {words[-1]}")


def some(field: Field) -> Field:
    """A list that may be empty."""
    return Field(f"a list of: {field.expected}", lambda v: isinstance(v, list) and all(map(field.fits, v)))


def optional(field: Field) -> Field:
    return either(field, NOTHING)


SETTINGS = Field("settings", lambda v: isinstance(v, dict))
MADE = Field("settings with a _target_", lambda v: isinstance(v, dict) and isinstance(v.get("_target_"), str))
PACKAGE = text(r"[A-Za-z_][\w.]*", "the name of a package")
TARGET = text(r"[A-Za-z_][\w]*(\.[A-Za-z_]\w*)+", "a class or function by its whole name")
PART = Field("a whole number of batches, or a fraction up to 1.0", lambda v: _is_part(v))
RATE, LENGTH = number(0, 1e38), number(0, 1e12)
PLACEMENT = Field(
    "a whole number, a stage, or a list of blocks",
    lambda v: (
        (type(v) is int and v >= 0)
        or (isinstance(v, str) and re.fullmatch(r"res\d+", v) is not None)
        or (isinstance(v, list) and all(isinstance(block, str) for block in v))
    ),
)


def _is_part(value: object) -> bool:
    return (type(value) is int and 0 <= value <= 10**9) or (type(value) is float and 0 <= value <= 1)


FIELDS: Mapping[str, Field] = {
    "data": SETTINGS, "model": SETTINGS, "task": SETTINGS, "optim": SETTINGS, "trainer": SETTINGS, "paths": SETTINGS,
    "extras": SETTINGS, "callbacks": OWN, "logger": OWN, "init": OWN, "optim.optimizer": SETTINGS,
    "optim.schedule": SETTINGS,
    "data.allow_pipe": YES_NO,
    "data.cache_dir": optional(PLACE),
    "data.cache_gb": number(0, 1e9),
    "data.decoder": one_of("pyav", "torchcodec"),
    "data.shards": optional(text(r"[^\x00-\x1f]{0,4096}", "a path or a URL")),  # "": of an unset variable
    "data.train_split": either(WORD, several(WORD, 16)),
    "data.val_split": WORD,
    "extras.allow_changed_data": YES_NO,
    "extras.allow_targets": some(PACKAGE),
    "extras.imports": some(PACKAGE),
    "extras.print_config": YES_NO,
    "extras.probe_data": YES_NO,
    "extras.traceback": YES_NO,
    "extras.trust": YES_NO,
    "init.checkpoint": optional(PLACE),
    "init.images": optional(PLACE),
    "init.inflation": one_of("all", "center"),
    "init.keep_classifier": YES_NO,
    "paths.data_dir": PLACE,
    "paths.log_dir": PLACE,
    "paths.run_dir": optional(PLACE),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu", "xpu"),
    "trainer.num_nodes": COUNT,
    "trainer.default_root_dir": optional(PLACE),
    "trainer.devices": either(
        whole(1, 65536),
        whole(-1, -1),
        text(r"auto|-1|\d+|(\d+,)*\d*", "auto, or devices as in `0,1`"),
        Field("a list of devices", lambda v: isinstance(v, list) and bool(v) and all(type(d) is int for d in v)),
    ),
    "trainer.limit_train_batches": optional(PART),
    "trainer.limit_val_batches": optional(PART),
    "trainer.limit_test_batches": optional(PART),
    "trainer.overfit_batches": PART,
    "trainer.val_check_interval": either(PART, NOTHING, text(r"\d+:\d\d:\d\d:\d\d", "a time DD:HH:MM:SS"), OWN),
    "trainer.max_time": either(NOTHING, text(r"\d+:\d\d:\d\d:\d\d", "a time DD:HH:MM:SS"), OWN),
    "trainer.strategy": either(
        text(r"[A-Za-z][\w.-]*", "the name of a strategy"), MADE
    ),
    "trainer.precision": either(
        one_of("16-true", "16-mixed", "bf16-true", "bf16-mixed", "32-true", "64-true", "transformer-engine",
               "transformer-engine-float16", "16", "32", "64", "bf16"),
        Field("16, 32 or 64", lambda v: v in (16, 32, 64) and type(v) is int),
    ),
}  # fmt: skip
"""A dotted key -> what may be typed for it, whatever class is meant."""

_KEPT = {
    "dirpath": optional(PLACE),
    "filename": optional(text(r"[^\x00/]{1,200}", "a file's name")),
    "monitor": optional(WORD),
    "mode": optional(one_of("max", "min")),
    "save_top_k": whole(-1, 10**6),
    "enable_version_counter": YES_NO,
    "auto_insert_metric_name": YES_NO,
    "save_on_train_epoch_end": optional(YES_NO),
    "every_n_train_steps": optional(whole(0, 10**12)),
    "every_n_epochs": optional(whole(0, 10**9)),
}
_SCHEDULE = {
    "warmup": LENGTH,
    "warmup_start": number(0, 1),
    "milestones": some(LENGTH),
    "gamma": RATE,
    "final": RATE,
    "power": number(0, 100),
    "epochs": optional(whole(-1, 10**9)),
    "warmup_steps": LENGTH,
    "warmup_start_lr": RATE,
    "min_lr": RATE,
}
_NETWORK = {
    "name": WORD,
    "nonlocal_blocks": PLACEMENT,
    "pairwise": WORD,
    "subsample": YES_NO,
    "scale": optional(YES_NO),
    "nonlocal_groups": OWN,
    "spatial_strides": OWN,
    "dilations": OWN,
    "nonlocal_options": OWN,
    "geometry": optional(one_of("paper", "dense", "sparse")),
    "pool1_padding": whole(0, 1),
    "pool1_frames": optional(whole(1, 3)),
    "pool2_frames": optional(whole(1, 3)),
    "inflation": optional(one_of("3x1x1", "3x3x3")),
    "norm": one_of("batch", "frozen"),
    "dropout": number(0, 1),
    "head": one_of("linear", "mlp"),
    "nonlocal_options.axes": optional(one_of("spacetime", "space", "time")),
    "nonlocal_options.init": optional(one_of("normal", "msra")),
    "nonlocal_options.inner_channels": optional(whole(1, 65536)),
    "nonlocal_options.norm": optional(one_of("batch", "affine", "none")),
    "nonlocal_options.out_bias": optional(YES_NO),
    "nonlocal_options.preset": one_of("official", "paper", "mmcv"),
    "nonlocal_options.scale": optional(YES_NO),
    "nonlocal_options.subsample_order": optional(WORD),
    "nonlocal_options.zero_init": optional(one_of("norm", "out", "none")),
}
_REGION_GRAPH = {
    "graph": one_of("joint", "similarity", "spacetime", "none"),
    "graph_width": whole(1, 65536),
    "graph_layers": whole(1, 100),
}
_DETECTOR = {
    "name": WORD,
    "nonlocal_blocks": PLACEMENT,
    "subsample": YES_NO,
    "context_ratio": number(0, 1),
    "norm": one_of("batch", "sync", "group", "frozen"),
    "trainable_stages": whole(0, 5),
    "frozen_eps": number(0, 1),
}
_SEGMENTER = {"name": WORD, "backbone": WORD, "channels": whole(8, 65536), "block_options": OWN}

OF_CLASS: Mapping[str, Mapping[str, Field]] = {
    "nlnet.build_model": _NETWORK,
    "nlnet.models.detection.build.build_detector": _DETECTOR,
    "nlnet.models.segmentation.build.build_segmenter": _SEGMENTER,
    "nlnet.models.graphs.build.build_region_graph": _NETWORK | _REGION_GRAPH,
    "pytorch_lightning.callbacks.ModelCheckpoint": _KEPT,
    "pytorch_lightning.callbacks.LearningRateMonitor": {"logging_interval": optional(one_of("step", "epoch"))},
    "nlnet.runs.callbacks.progress_bar.ProgressBar": {"refresh_rate": whole(0, 10**6), "leave": YES_NO},
    "pytorch_lightning.callbacks.RichProgressBar": {"refresh_rate": whole(0, 10**6), "leave": YES_NO},
    "pytorch_lightning.callbacks.TQDMProgressBar": {"refresh_rate": whole(0, 10**6), "leave": YES_NO},
    "pytorch_lightning.callbacks.EarlyStopping": {
        "monitor": WORD,
        "mode": optional(one_of("max", "min")),
        "patience": whole(0, 10**9),
        "min_delta": number(-1e9, 1e9),
    },
    "nlnet.runs.callbacks.precise_bn.PreciseBatchNorm": {"batches": COUNT},
    "pytorch_lightning.callbacks.EMAWeightAveraging": {
        "decay": number(0, 1),
        "update_every_n_steps": COUNT,
        "update_starting_at_step": optional(whole(0, 10**12)),
        "use_buffers": YES_NO,
    },
    **{f"nlnet.optim.schedules.{name}": _SCHEDULE for name in ("constant", "cosine", "poly", "step", "step_epochs")},
    "nlnet.compat.bolts.bolts_warmup_cosine": _SCHEDULE,
}
"""One of our classes and functions -> its arguments that are known here."""

OF_OPTIMIZERS: Mapping[str, Field] = {
    "lr": RATE,
    "momentum": number(0, 1),
    "weight_decay": RATE,
    "nesterov": YES_NO,
    "dampening": number(0, 1),
    "betas": Field("two numbers", lambda v: isinstance(v, list) and len(v) == 2 and all(0 <= b < 1 for b in v)),
    "eps": number(0, 1),
    "amsgrad": YES_NO,
    "fused": optional(YES_NO),
}
"""The arguments that PyTorch's optimizers share."""
