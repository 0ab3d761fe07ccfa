"""`predict`: what the network of a checkpoint sees in videos or images, whichever it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method
from omegaconf import DictConfig

from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.pretrained import checkpoint_file, chosen_weights
from nlnet.config.instantiate import find_allowed, import_modules
from nlnet.errors import UserError
from nlnet.trust.settings import ALLOW
from nlnet.trust.targets import is_within

_VIDEOS, _IMAGES = "nlnet.prediction.videos.predict_videos", "nlnet.prediction.images.predict_images"
_OURS = {
    "nlnet.tasks.classification.ClassificationTask": _VIDEOS,
    "nlnet.tasks.detection.DetectionTask": _IMAGES,
    "nlnet.tasks.segmentation.task.SegmentationTask": "nlnet.prediction.segmentation.predict_masks",
    "nlnet.tasks.regions.RegionTask": "nlnet.prediction.regions.predict.predict_regions",
    "nlnet.tasks.restoration.RestorationTask": "nlnet.prediction.restoration.predict_restored",
}
"""The predictors of our own tasks, told without importing them: they take Lightning along, which takes seconds."""


def predict(cfg: DictConfig) -> dict[str, Any]:
    """What is in the videos or images of `cfg.source`, as it is written to `cfg.out`.

    A predictor is a function (cfg, file, content, device) -> result. Raises UserError if nothing can be read.
    """
    file = checkpoint_file(Path(cfg.ckpt_path).expanduser())
    content = chosen_weights(read_file(file, "ckpt_path="), cfg.weights, f"ckpt_path={file}")
    import_modules(cfg.imports, cfg.allow_targets)
    predictor = get_method(_predictor(content, cfg.allow_targets, file))
    return predictor(cfg, file, content, torch.device(cfg.device or best_device()))


def best_device() -> str:
    """cuda, mps or cpu, the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def task_of(content: Mapping[str, Any]) -> str | None:
    """The name of the task that left this checkpoint; None for a converted file."""
    settings = content.get("hyper_parameters")
    task = settings.get("task") if isinstance(settings, Mapping) else None
    return str(task.get("_target_")) if isinstance(task, Mapping) else None


def _predictor(content: Mapping[str, Any], allow: list[str], file: Path) -> str:
    """The name of the function for this checkpoint; a converted file is of videos."""
    target = task_of(content)
    if target is None:
        return _VIDEOS
    if target in _OURS:
        return _OURS[target]
    if not is_within(target, allow):
        raise UserError(
            f"ckpt_path={file}: its task ({target}) is not one of nlnet's; if you trust that package, allow it with"
            f" {ALLOW.format(package=target.partition('.')[0])}"
        )
    found = getattr(find_allowed(f"ckpt_path={file}: task._target_", target, allow), "predictor", None)
    if found is None:
        raise UserError(f"ckpt_path={file}: its task {target} does not say how to predict; set its class' predictor")
    return str(found)
