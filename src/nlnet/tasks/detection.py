"""Detection on images: boxes, masks and keypoints, evaluated by the COCO protocol."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from nlnet.checkpoints.detection import load_backbone, load_detector
from nlnet.distributed import gather_on_first, on_first, print_once, sum_over_ranks, world_size
from nlnet.errors import UserError
from nlnet.evaluation.coco import METRICS, average_precisions, to_results
from nlnet.models.detection import resized
from nlnet.models.detection.summary import describe_detector
from nlnet.saving import write_json
from nlnet.tasks.missing import describe_missing
from nlnet.tasks.task import Batch, Task

_TARGETS = ("boxes", "labels", "masks", "keypoints")


class DetectionTask(Task):
    """A detector, its losses and its average precisions.

    The loss is the sum of the detector's losses. Each of these is a mean over the regions of a rank's images; the ranks
    are weighted by the images that they could read, n_r / sum_r n_r, so a rank whose whole slice failed contributes
    nothing and changes nothing for the others.

    An evaluation counts every image once on any number of ranks. Rank 0 writes all detections to `predictions.json` in
    the run's folder (`predictions-test.json` after a test), in COCO's result format, and what is logged is what
    pycocotools makes of them: `val/box_AP`, `val/box_AP50`, `val/mask_AP`, `val/keypoint_AP` and so on, and
    `val/images`, how many there were (and `val/images_missing`, where some could not be read).

    Args:
        net: a detector of `nlnet.models.detection.build`, or another of torchvision's; the batches come resized for it.
        kind: "detection".
        category_ids: the category of label k + 1 in the ground truth.
        ground_truth: () -> COCO annotations of the validation images; called on rank 0 only.
        sigmas: of the keypoints, for the object keypoint similarity.
        skeleton: pairs of keypoints that make a limb, counted from 0; kept with the classes for predictions.
        shared: classes (that of label k + 1), optimizer and what else every task has; see `Task`.
    """

    samples = "images"
    outputs: ClassVar[Mapping[str, str]] = {
        "predictions.json": "every detection of the last validation, in COCO's format",
        "image_grid": "ground truth and predictions side by side",
    }
    predictor = "nlnet.prediction.images.predict_images"

    def __init__(
        self,
        net: GeneralizedRCNN,
        kind: str,
        *,
        category_ids: Sequence[int],
        ground_truth: Callable[[], Mapping[str, Any]],
        sigmas: Sequence[float] | None = None,
        skeleton: Sequence[Sequence[int]] = (),
        **shared: Any,
    ) -> None:
        super().__init__(net, kind, **shared)
        heads = net.roi_heads
        self.parts = ["box", *(["mask"] * heads.has_mask()), *(["keypoint"] * heads.has_keypoint())]
        self.category_ids, self.sigmas, self._ground_truth = tuple(category_ids), sigmas, ground_truth
        self.skeleton = [list(map(int, pair)) for pair in skeleton]
        self._absent: list[str] = []
        self.reset()

    @classmethod
    def network_arguments(cls, data: Any) -> dict[str, Any]:
        keypoints = {"num_keypoints": data.num_keypoints} if data.num_keypoints else {}
        return super().network_arguments(data) | keypoints

    @classmethod
    def data_arguments(cls, data: Any) -> dict[str, Any]:
        return super().data_arguments(data) | {
            "category_ids": list(data.category_ids),
            "ground_truth": data.ground_truth,
            "sigmas": list(data.sigmas) or None,
            "skeleton": [list(pair) for pair in data.skeleton],
        }

    @classmethod
    def check(cls, net: nn.Module, data: Any) -> None:
        heads: Any = net.roi_heads
        for part, wanted, given in (
            ("masks", heads.has_mask(), data.masks),
            ("keypoints", heads.has_keypoint(), data.keypoints),
        ):
            if wanted and not given:
                raise UserError(f"data.{part}={given}, but the network predicts {part}; set data.{part}=true")

    @classmethod
    def initial_weights(cls, net: nn.Module, init: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
        assert isinstance(net, GeneralizedRCNN)
        if init["checkpoint"] and init["images"]:
            raise UserError(f"init.checkpoint={init['checkpoint']} and init.images={init['images']}: give one of them")
        if init["checkpoint"]:
            return [load_detector(net, init["checkpoint"], keep_classifier=init["keep_classifier"])]
        if init["images"]:
            return [load_backbone(net, init["images"])]
        if model.get("norm") == "frozen":
            raise UserError(
                "model.norm=frozen: the backbone's norms stay as they are, and nothing was loaded; give ImageNet"
                " weights with init.images=FILE, a detector's with init.checkpoint=FILE, or start at random with"
                " model.norm=batch model.trainable_stages=5"
            )
        return []

    @property
    def scorers(self) -> Sequence[nn.Module]:
        return resized.scorers(self.net)

    @property
    def called_modules(self) -> Sequence[nn.Module]:
        return [self.net.get_submodule(name) for name in ("backbone", "rpn", "roi_heads")]

    def model_summary(self, data: Any) -> tuple[list[str], dict[str, float]]:
        side = data.eval_short_side
        # 4:3, the shape of most photographs, in multiples of 32 as the network pads
        width = min(-(-side * 4 // 3 // 32) * 32, -(-data.max_size // 32) * 32)
        summary = describe_detector(self.net, (-(-side // 32) * 32, width))
        return [str(summary)], {"parameters": summary.parameters, "gmacs": summary.gmacs}

    def forward(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Detections in `images` (3, H, W) uint8, in pixels of images of `sizes`."""
        return resized.detect(self.net, [image.float() / 255 for image in images], sizes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        readable = _readable(batch)
        # A rank without any goes through the motions on an empty image, so that the others need not wait for it.
        used = readable or [0]
        images = [batch["images"][k].float() / 255 for k in used]
        targets = [{name: batch["targets"][k][name] for name in _TARGETS if name in batch["targets"][k]} for k in used]
        losses = resized.losses(self.net, images, targets)
        total = sum_over_ranks(batch["weights"].sum())
        # DDP averages gradients over the ranks; times the number of ranks it is the sum over the global batch.
        fraction = len(readable) * world_size() / total.clamp(min=1)
        scaled = {name: value.float() * fraction for name, value in losses.items()}
        loss = torch.stack(list(scaled.values())).sum()
        self._log_losses(scaled, loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"detections": self._detect(batch)}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"detections": self._detect(batch)}

    def reset(self) -> None:
        super().reset()
        self._images: list[int] = []
        self._results: list[dict[str, Any]] = []

    def log_metrics(self, stage: str) -> None:
        failed = self.failures()
        found = gather_on_first((self._images, self._results))
        metrics = on_first(lambda: self._average_precisions(found, stage))
        if failed:  # beside the others, so that nobody takes them for those of all images
            metrics["images_missing"] = float(len(failed))
            print_once(f"{stage}: {describe_missing(int(metrics['images']), failed, 'images')}")
        self.log_same({f"{stage}/{name}": value for name, value in metrics.items()})
        self._results = []

    def metric_names(self) -> list[str]:
        return ["images", *(f"{part}_{name}" for part in self.parts for name in METRICS[part])]

    def absent_classes(self) -> list[str]:
        return self._absent

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["skeleton"] = self.skeleton

    def _log_losses(self, losses: Mapping[str, Tensor], loss: Tensor) -> None:
        values = torch.stack([loss, *losses.values()]).detach()
        means = sum_over_ranks(values) / world_size()
        self.log("train/loss", means[0], prog_bar=True, batch_size=1)
        self.log_dict({f"train/{name}": mean for name, mean in zip(losses, means[1:], strict=True)}, batch_size=1)

    def _detect(self, batch: Batch) -> list[dict[str, Tensor]]:
        """The detections in the images of this batch that could be read, in pixels of the images as annotated."""
        self.note_failures(batch)
        readable = _readable(batch)
        targets = [batch["targets"][k] for k in readable]
        if not readable:
            return []
        sizes = [(int(target["orig_size"][0]), int(target["orig_size"][1])) for target in targets]
        detections = self([batch["images"][k] for k in readable], sizes)
        for target, detection in zip(targets, detections, strict=True):
            self._images.append(int(target["image_id"]))
            self._results += to_results(detection, int(target["image_id"]), self.category_ids)
        return detections

    def _average_precisions(
        self, found: Sequence[tuple[list[int], list[dict[str, Any]]]], stage: str
    ) -> dict[str, float]:
        """The metrics of what the ranks found: (image ids, results) of each."""
        images = {image for of_rank, _ in found for image in of_rank}
        # By image: equal scores are then in the same order on any number of ranks.
        results = sorted((row for _, of_rank in found for row in of_rank), key=lambda row: row["image_id"])
        ground_truth = self._ground_truth()
        there = {row["category_id"] for row in ground_truth["annotations"] if row["image_id"] in images}
        pairs = zip(self.classes, self.category_ids, strict=True)
        self._absent = [name for name, category in pairs if category not in there]
        if not self.trainer.sanity_checking:
            name = "predictions.json" if stage == "val" else f"predictions-{stage}.json"
            write_json(Path(self.trainer.default_root_dir) / name, results, indent=None)
        metrics = {"images": float(len(images))}
        for part in self.parts:
            values = average_precisions(ground_truth, results, part, image_ids=images, sigmas=self.sigmas)
            metrics |= {f"{part}_{name}": value for name, value in values.items()}
        return metrics


def _readable(batch: Batch) -> list[int]:
    return [k for k, weight in enumerate(batch["weights"].tolist()) if weight > 0]
