"""The typed schema of the settings in a file: which of our classes each part may name, and what its values may be.

A field is described by a function that says whether a value fits, and by words for the message. Parts that are not
listed hold plain values, which our code checks where it uses them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

BUILT_FROM_CLASSES = (
    "nlnet.models.graphs.build.build_region_graph",
    "nlnet.models.restoration.build.build_denoiser",
    "nlnet.models.segmentation.build.build_segmenter",
)
"""Those, beside `build_model`, that a run's settings, and its number of classes where there are any, are enough for."""
NETWORKS = ("nlnet.build_model", "nlnet.models.detection.build.build_detector", *BUILT_FROM_CLASSES)

_OPTIMIZERS = "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD"
_CALLBACKS = (
    "DeviceStatsMonitor EMAWeightAveraging EarlyStopping GradientAccumulationScheduler LearningRateMonitor"
    " ModelCheckpoint ModelSummary RichModelSummary RichProgressBar StochasticWeightAveraging TQDMProgressBar"
    " ThroughputMonitor Timer"
)

CLASSES: Mapping[str, tuple[str, ...]] = {
    "model": NETWORKS,
    "task": (
        "nlnet.tasks.classification.ClassificationTask",
        "nlnet.tasks.detection.DetectionTask",
        "nlnet.tasks.segmentation.task.SegmentationTask",
        "nlnet.tasks.regions.RegionTask",
        "nlnet.tasks.restoration.RestorationTask",
    ),
    "data": (
        "nlnet.data.modules.clips.ClipDataModule",
        "nlnet.data.modules.detection.DetectionDataModule",
        "nlnet.data.segmentation.module.SegmentationDataModule",
        "nlnet.data.regions.module.RegionDataModule",
        "nlnet.data.restoration.module.RestorationDataModule",
    ),
    "optim.optimizer": tuple(f"torch.optim.{name}" for name in _OPTIMIZERS.split()),
    "optim.schedule": (
        *(f"nlnet.optim.schedules.{name}" for name in ("constant", "cosine", "poly", "step", "step_epochs")),
        "nlnet.compat.bolts.bolts_warmup_cosine",
    ),
    "trainer": ("pytorch_lightning.Trainer",),
    "trainer.strategy": ("nlnet.runs.sharding.strategy.ShardedStrategy",),
    "callbacks.*": (
        *(f"pytorch_lightning.callbacks.{name}" for name in _CALLBACKS.split()),
        "nlnet.runs.callbacks.attention_figures.AttentionFigures",
        "nlnet.runs.callbacks.image_grid.ImageGrid",
        "nlnet.runs.callbacks.precise_bn.PreciseBatchNorm",
        "nlnet.runs.callbacks.progress_bar.ProgressBar",
    ),
    "logger.*": (
        "nlnet.runs.loggers.wandb_logger",
        "pytorch_lightning.loggers.CSVLogger",
        "pytorch_lightning.loggers.TensorBoardLogger",
    ),
}
"""A part of the configuration (`*`: of any name) -> what its `_target_` may be in a file that nobody vouches for."""


class Field(NamedTuple):
    """What a value may be, in words and as a function."""

    expected: str
    fits: Callable[[Any], bool]


def whole(low: int, high: int) -> Field:
    return Field(f"a whole number from {low:,} to {high:,}", lambda v: type(v) is int and low <= v <= high)


def number(low: float, high: float) -> Field:
    return Field(f"a number from {low:g} to {high:,g}", lambda v: type(v) in (int, float) and low <= v <= high)


def text(pattern: str, expected: str) -> Field:
    return Field(expected, lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None)


def several(field: Field, most: int) -> Field:
    return Field(
        f"a list of up to {most:,} of: {field.expected}",
        lambda v: isinstance(v, list) and 1 <= len(v) <= most and all(map(field.fits, v)),
    )


def either(*fields: Field) -> Field:
    return Field(" or ".join(field.expected for field in fields), lambda v: any(field.fits(v) for field in fields))


YES_NO = Field("true or false", lambda v: isinstance(v, bool))
NOTHING = Field("null", lambda v: v is None)
NO_ITEM = Field("an empty list", lambda v: v == [])
OWN = Field("nothing, or settings", lambda v: v is None or isinstance(v, dict))
NAME = text(r"[A-Za-z0-9][A-Za-z0-9 ._+=,@()-]{0,199}", "a name of letters, digits, spaces and ._+=,@()-")
WORD = text(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,99}", "a word")
PLACE = text(r"[^\x00-\x1f]{1,4096}", "a path or a URL")
SIDE, COUNT = whole(1, 4096), whole(1, 65536)
FPS = number(0.1, 1000)
LIMIT = either(NOTHING, number(0, 1e9))

_SHARDS = {
    "shards": PLACE,
    "shards_variable": either(NOTHING, NAME),
    "dataset": NAME,
    "train_split": either(NAME, several(NAME, 16)),
    "val_split": NAME,
    "batch_size": COUNT,
    "eval_batch_size": either(NOTHING, COUNT),
    "num_workers": whole(0, 1024),
    "shuffle_shards": whole(1, 10**6),
    "max_missing_eval": whole(0, 10**9),
    "max_skipped": number(0, 1),
    "max_consecutive_failures": whole(1, 10**9),
    "read_timeout_s": number(0.1, 3600),
    "worker_timeout_s": number(0, 86400),
    "parallel_reads": whole(1, 64),
    "read_ahead_mb": number(0, 4096),
    "seed": whole(0, 2**32 - 1),
}
_CLIPS = {
    "val_shards": either(NOTHING, PLACE),
    "frames": whole(1, 1024),
    "stride": whole(1, 1024),
    "fps": either(NOTHING, FPS),
    "size": SIDE,
    "scale": several(SIDE, 2),
    "flip": YES_NO,
    "color_jitter": number(0, 1),
    "clips_per_video": COUNT,
    "decoder": WORD,
}
_REGIONS = {
    "stand_in": either(NOTHING, NAME),
    "regions": either(NOTHING, PLACE),
    "region_frames": whole(1, 1024),
    "regions_per_frame": whole(1, 1000),
}
_CLASSIFICATION = {
    "kind": WORD,
    "monitor": WORD,
    "loss": OWN,  # classes in it are the user's own
    "metrics": OWN,
}
_DETECTION = {
    "masks": YES_NO,
    "keypoints": YES_NO,
    "short_sides": several(SIDE, 100),
    "eval_short_side": either(NOTHING, SIDE),
    "max_size": SIDE,
    "flip": YES_NO,
    "flip_pairs": either(NOTHING, NO_ITEM, several(several(text(r".{1,200}", "a name"), 2), 1000)),
    "image_formats": several(WORD, 20),
    "aspect_groups": YES_NO,
    "skip_empty": YES_NO,
    "sigmas": either(NOTHING, several(number(1e-6, 100), 1000)),
}
_SEGMENTATION = {
    "scale": several(SIDE, 2),
    "ratio": several(number(0.01, 100), 2),
    "crop": several(SIDE, 2),
    "most_of_one": number(0, 1),
    "flip": YES_NO,
    "color": YES_NO,
}
_SIGMA = number(0, 255)
_RESTORATION = {
    "channels": whole(1, 3),
    "sigma": either(_SIGMA, several(_SIGMA, 2)),
    "eval_sigma": either(NOTHING, _SIGMA),
    "patch_size": SIDE,
    "patches_per_image": COUNT,
    "flip": YES_NO,
    "image_formats": several(WORD, 20),
}

CLASS_FIELDS: Mapping[str, Mapping[str, Field]] = {
    "nlnet.data.modules.clips.ClipDataModule": _SHARDS | _CLIPS,
    "nlnet.data.modules.detection.DetectionDataModule": _SHARDS | _DETECTION,
    "nlnet.data.regions.module.RegionDataModule": _SHARDS | _CLIPS | _REGIONS,
    "nlnet.data.restoration.module.RestorationDataModule": _SHARDS | _RESTORATION,
    "nlnet.data.segmentation.module.SegmentationDataModule": _SHARDS | _SEGMENTATION,
    "nlnet.tasks.classification.ClassificationTask": _CLASSIFICATION,
    "nlnet.tasks.regions.RegionTask": _CLASSIFICATION,
    "nlnet.tasks.detection.DetectionTask": {"kind": WORD, "monitor": WORD},
    "nlnet.tasks.segmentation.task.SegmentationTask": {
        "kind": WORD,
        "monitor": WORD,
        "auxiliary_weight": number(0, 1000),
        "window": either(NOTHING, several(SIDE, 2)),
        "stride": either(NOTHING, several(SIDE, 2)),
        "scales": several(number(0.01, 100), 100),
        "flip": YES_NO,
    },
    "nlnet.tasks.restoration.RestorationTask": {
        "kind": WORD,
        "monitor": WORD,
        "tile": either(NOTHING, whole(16, 65536)),
        "overlap": either(NOTHING, whole(0, 65536)),
        "baselines": either(NO_ITEM, several(WORD, 20)),
    },
    "pytorch_lightning.Trainer": {
        "accelerator": WORD,
        "precision": either(WORD, whole(16, 64)),
        "max_epochs": either(NOTHING, whole(-1, 10**9)),
        "max_steps": whole(-1, 10**12),
        "min_epochs": either(NOTHING, whole(0, 10**9)),
        "min_steps": either(NOTHING, whole(0, 10**12)),
        "accumulate_grad_batches": COUNT,
        "gradient_clip_val": LIMIT,
        "gradient_clip_algorithm": either(NOTHING, WORD),
        "val_check_interval": LIMIT,
        "check_val_every_n_epoch": either(NOTHING, COUNT),
        "limit_train_batches": LIMIT,
        "limit_val_batches": LIMIT,
        "limit_test_batches": LIMIT,
        "overfit_batches": number(0, 1e9),
        "fast_dev_run": either(YES_NO, whole(0, 10**9)),
        "num_sanity_val_steps": whole(-1, 10**9),
        "log_every_n_steps": either(NOTHING, whole(0, 10**9)),
        "deterministic": either(NOTHING, YES_NO, text("warn", "warn")),
        "benchmark": either(NOTHING, YES_NO),
        "inference_mode": YES_NO,
        "detect_anomaly": YES_NO,
        "sync_batchnorm": YES_NO,
        "enable_model_summary": either(NOTHING, YES_NO),
        "enable_progress_bar": either(NOTHING, YES_NO),
        "profiler": either(NOTHING, text("simple|advanced", "simple or advanced")),
    },
}
"""One of our classes -> its settings. It takes no others from a file."""

_TEXTS = Field("a list of texts", lambda v: isinstance(v, list) and all(isinstance(text, str) for text in v))

TOP_FIELDS: Mapping[str, Field] = {
    "task_name": NAME,
    "tags": _TEXTS,
    "train": YES_NO,
    "test": YES_NO,
    "ckpt_path": either(NOTHING, PLACE),
    "seed": whole(0, 2**32 - 1),
    "optimized_metric": WORD,
    "demo_size": NAME,
    "size_name": NAME,
    "epochs": LIMIT,
    "weights": either(NOTHING, text("ema|trained", "ema or trained")),
    "compile": YES_NO,
    "channels_last": YES_NO,
    "checkpoint_stages": either(NO_ITEM, several(WORD, 16)),
    "experiment_name": either(NOTHING, text(r"[A-Za-z0-9][A-Za-z0-9 ._+=,@()/-]{0,199}", "an experiment's name")),
    "group": either(NOTHING, text(r"[^\x00-\x1f]{1,128}", "a text of at most 128 letters")),
    "demo": YES_NO,
    "typed": _TEXTS,
    "optim.no_weight_decay": WORD,
    "optim.lr_batch": LIMIT,
    "optim.bias_lr_factor": number(0, 1e6),
    "extras.threads": either(NOTHING, whole(1, 1024)),
    "extras.checkpoint_every_n_steps": whole(1, 10**12),
    "extras.rank_timeout_s": number(1, 10**7),
}
"""What is said of a run beside its classes."""

YOURS = (
    "data.allow_pipe",
    "data.cache_dir",
    "data.cache_gb",
    "extras.allow_changed_data",
    "extras.allow_targets",
    "extras.print_config",
    "extras.probe_data",
    "extras.traceback",
    "extras.trust",
    "paths.data_dir",
    "trainer.default_root_dir",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
)
"""Settings that never come from a file: what may be run, how many processes are started, where is written."""
