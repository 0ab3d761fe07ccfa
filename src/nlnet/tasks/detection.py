"""Detection on images: boxes, masks and keypoints, judged by the COCO protocol."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from nlnet.errors import UserError
from nlnet.evaluation.coco import average_precisions, to_results
from nlnet.models.detection import detect
from nlnet.tasks.missing import beside, check_missing
from nlnet.tasks.ranks import gather, gather_on_first, on_first, sum_over_ranks, world_size
from nlnet.tasks.task import Batch, Task

_TARGETS = ("boxes", "labels", "masks", "keypoints")


class DetectionTask(Task):
    """A detector, its losses and its average precisions.

    The loss is the sum of the detector's losses. Each of these is a mean over the regions of a rank's images; the ranks
    are weighted by the images that they could read, n_r / sum_r n_r, so a rank whose whole share failed contributes
    nothing and changes nothing for the others. A loss that is not finite stops the run before the update.

    An evaluation counts every image once on any number of ranks. Rank 0 writes all detections to `predictions.json` in
    the run's folder (`predictions-test.json` after a test), in COCO's result format, and what is logged is what
    pycocotools makes of them: `val/box_AP`, `val/box_AP50`, `val/mask_AP`, `val/keypoint_AP` and so on, and
    `val/images`, how many there were (and `val/images_missing`, where some could not be read).

    Args:
        net: a detector of `nlnet.models.detection`; the batches come resized for it.
        kind: "detection".
        category_ids: the category of label k + 1 in the ground truth.
        ground_truth: () -> COCO annotations of the validation images; called on rank 0 only.
        sigmas: of the keypoints, for the object keypoint similarity.
        skeleton: pairs of keypoints that make a limb, counted from 0; kept with the classes for predictions.
        shared: classes (that of label k + 1), optimiser and what else every task has; see `Task`.
    """

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
        net.transform.resized = True
        heads = net.roi_heads
        self.judged = ["box", *(["mask"] * heads.has_mask()), *(["keypoint"] * heads.has_keypoint())]
        self.category_ids, self.sigmas, self._ground_truth = tuple(category_ids), sigmas, ground_truth
        self.skeleton = [list(map(int, pair)) for pair in skeleton]
        self._absent: list[str] = []
        self.forget()

    def forward(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Detections in `images` (3, H, W) uint8, in pixels of images of `sizes`."""
        return detect(self.net, [image.float() / 255 for image in images], sizes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        readable = _readable(batch)
        # A rank without any goes through the motions on an empty image, so that the others need not wait for it.
        used = readable or [0]
        images = [batch["images"][k].float() / 255 for k in used]
        targets = [{name: batch["targets"][k][name] for name in _TARGETS if name in batch["targets"][k]} for k in used]
        losses: dict[str, Tensor] = self.net(images, targets)
        total = sum_over_ranks(batch["weights"].sum())
        # DDP averages gradients over the ranks; times the number of ranks it is the sum over the global batch.
        share = len(readable) * world_size() / total.clamp(min=1)
        scaled = {name: value.float() * share for name, value in losses.items()}
        loss = torch.stack(list(scaled.values())).sum()
        self._log_losses(scaled, loss, batch)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"detections": self._evaluate(batch)}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"detections": self._evaluate(batch)}

    def forget(self) -> None:
        super().forget()
        self._images: list[int] = []
        self._results: list[dict[str, Any]] = []

    def report(self, stage: str) -> None:
        failed = sorted(failure for share in gather(self._failed) for failure in share)
        if not self.trainer.sanity_checking:
            check_missing(failed, self.max_missing_eval, "images")
        shares = gather_on_first((self._images, self._results))
        figures = on_first(lambda: self._judge(shares, stage))
        if failed:  # beside the others, so that nobody takes them for those of all images
            figures["images_missing"] = float(len(failed))
            self.print(f"{stage}: {beside(int(figures['images']), failed, 'images')}")
        self.log_dict({f"{stage}/{name}": value for name, value in figures.items()}, batch_size=1)
        self._results = []

    def absent_classes(self) -> list[str]:
        return self._absent

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["skeleton"] = self.skeleton

    def _log_losses(self, losses: Mapping[str, Tensor], loss: Tensor, batch: Batch) -> None:
        values = torch.stack([loss, *losses.values()]).detach()
        means = sum_over_ranks(values) / world_size()
        if not means.isfinite().all():
            raise UserError(self._reason(losses, batch))
        self.log("train/loss", means[0], prog_bar=True, batch_size=1)
        self.log_dict({f"train/{name}": mean for name, mean in zip(losses, means[1:], strict=True)}, batch_size=1)

    def _reason(self, losses: Mapping[str, Tensor], batch: Batch) -> str:
        """Why the run stops; the same on every rank."""
        bad = {name: value.item() for name, value in losses.items() if not value.isfinite()}
        images = [batch["targets"][k]["image_id"] for k in _readable(batch)] if bad else []
        shares = gather((bad, images))
        named = ", ".join(f"{name}={value}" for share in shares for name, value in share[0].items())
        ids = ", ".join(str(image) for share in shares for image in share[1])
        return (
            f"the loss of step {self.trainer.global_step} is not finite ({named}) on the images {ids}; the weights are"
            " as before this step. Look at these images, lower optim.optimizer.lr, or set trainer.gradient_clip_val"
        )

    def _evaluate(self, batch: Batch) -> list[dict[str, Tensor]]:
        """The detections in the images of this batch that could be read, in pixels of the images as annotated."""
        self._failed += batch["failures"]
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

    def _judge(self, shares: Sequence[tuple[list[int], list[dict[str, Any]]]], stage: str) -> dict[str, float]:
        images = {image for share in shares for image in share[0]}
        # By image: equal scores are then in the same order on any number of ranks.
        results = sorted((result for share in shares for result in share[1]), key=lambda result: result["image_id"])
        truth = self._ground_truth()
        there = {annotation["category_id"] for annotation in truth["annotations"] if annotation["image_id"] in images}
        self._absent = [
            name for name, category in zip(self.classes, self.category_ids, strict=True) if category not in there
        ]
        if not self.trainer.sanity_checking:
            name = "predictions.json" if stage == "val" else f"predictions-{stage}.json"
            _write(Path(self.trainer.default_root_dir) / name, results)
        figures = {"images": float(len(images))}
        for kind in self.judged:
            found = average_precisions(truth, results, kind, image_ids=images, sigmas=self.sigmas)
            figures |= {f"{kind}_{figure}": value for figure, value in found.items()}
        return figures


def _readable(batch: Batch) -> list[int]:
    return [k for k, weight in enumerate(batch["weights"].tolist()) if weight > 0]


def _write(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(results, separators=(",", ":")))
    os.replace(temporary, path)
