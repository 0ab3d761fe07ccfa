"""From a configuration to the task of a detector."""

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from nlnet.data.detection import DetectionDataModule
from nlnet.errors import UserError
from nlnet.models.detection_weights import load_backbone, load_detector
from nlnet.runs.instantiate import instantiate
from nlnet.runs.start import scaled_rate
from nlnet.tasks.detection import DetectionTask


def make_detection_task(cfg: DictConfig, data: DetectionDataModule) -> DetectionTask:
    """The task with its detector, sized for the classes and keypoints of the data."""
    allow = cfg.extras.allow_targets
    keypoints = {"num_keypoints": data.num_keypoints} if data.num_keypoints else {}
    model = cfg.model.copy()
    with open_dict(model):
        model.pop("dropout", None)  # debug=overfit turns it off, and there is none here
    net = instantiate(model, allow, num_classes=data.num_classes, **keypoints)
    check_parts(net, cfg.data)
    for line in start_detector(net, cfg):
        rank_zero_only(print)(line, flush=True)
    make: Any = instantiate(cfg.task, allow, _partial_=True)
    return make(
        net=net,
        classes=list(data.classes),
        category_ids=list(data.category_ids),
        ground_truth=data.ground_truth,
        sigmas=list(data.sigmas) or None,
        skeleton=[list(pair) for pair in data.skeleton],
        optimizer=instantiate(cfg.optim.optimizer, allow, **scaled_rate(cfg)),
        schedule=instantiate(cfg.optim.schedule, allow),
        undecayed=cfg.optim.undecayed,
        max_missing_eval=data.max_missing_eval,
        settings=OmegaConf.to_container(cfg, resolve=True),
    )


def check_parts(net: GeneralizedRCNN, data: DictConfig) -> None:
    """A network that predicts masks or keypoints needs data that has them."""
    for part, wanted, given in (
        ("masks", net.roi_heads.has_mask(), data.masks),
        ("keypoints", net.roi_heads.has_keypoint(), data.keypoints),
    ):
        if wanted and not given:
            raise UserError(f"data.{part}={given}, but the network predicts {part}; set data.{part}=true")


def start_detector(net: GeneralizedRCNN, cfg: DictConfig) -> list[str]:
    """Fill `net` as `cfg.init` says and return what to say about it; nothing where a checkpoint is loaded afterwards.

    Raises UserError where weights are needed and none are named, or where two sources are.
    """
    init = cfg.init
    if cfg.ckpt_path:
        return []
    if init.checkpoint and init.images:
        raise UserError(f"init.checkpoint={init.checkpoint} and init.images={init.images}: give one of them")
    if init.checkpoint:
        return [load_detector(net, init.checkpoint, keep_classifier=init.keep_classifier)]
    if init.images:
        return [load_backbone(net, init.images)]
    if cfg.model.norm == "frozen":
        raise UserError(
            "model.norm=frozen: the backbone's norms stay as they are, and nothing was loaded; give ImageNet weights"
            " with init.images=FILE, a detector's with init.checkpoint=FILE, or start at random with model.norm=batch"
            " model.trainable_stages=5"
        )
    return []
