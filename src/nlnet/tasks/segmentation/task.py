"""Semantic segmentation: its losses, and its metrics from one matrix of counts."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet.distributed import is_first, print_once, sum_over_ranks, world_size
from nlnet.errors import UserError
from nlnet.evaluation.confusion import class_accuracies, class_ious, confusion, segmentation_metrics
from nlnet.models.probe import multiply_adds
from nlnet.models.segmentation.build import Segmenter
from nlnet.models.segmentation.inference import Views, labels, scores
from nlnet.models.summary import cost_line, title_of
from nlnet.saving import write_bytes
from nlnet.tasks.missing import describe_missing
from nlnet.tasks.segmentation.weights import load_backbone, load_network
from nlnet.tasks.task import Batch, Task

_METRICS = ("mIoU", "mAcc", "pixel_accuracy")
_IGNORED = 255


class SegmentationTask(Task):
    """A network, its two losses, and the mean intersection over union.

    The loss is that of the head plus `auxiliary_weight` times that of the auxiliary head, each the mean of the
    cross-entropies of all labeled pixels in the batch of *all* ranks: sum_p l_p / N. A rank without any labeled pixel
    contributes nothing and changes nothing for the others.

    An evaluation counts each labeled pixel of each image once on any number of ranks, at the size of the mask, in one
    matrix (class, predicted class) that is summed over the ranks; whole numbers, so the metrics are exact. `iou.csv` in
    the run's folder (`iou-test.csv` after a test) has each class's figures.

    Args:
        net: of `nlnet.models.segmentation.build`.
        kind: "segmentation".
        auxiliary_weight: 0.4 in the published networks.
        window, stride, scales, flip: how images are looked at in evaluations, see
            `nlnet.models.segmentation.inference.Views`; `window` None for whole images.
        shared: classes, optimizer and what else every task has; see `Task`.
    """

    samples = "images"
    outputs: ClassVar[Mapping[str, str]] = {"iou.csv": "intersection over union of every class"}
    predictor = "nlnet.prediction.segmentation.predict_masks"

    def __init__(
        self,
        net: Segmenter,
        kind: str,
        *,
        auxiliary_weight: float = 0.4,
        window: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(net, kind, **shared)
        self.auxiliary_weight = auxiliary_weight
        self.views = views(window, stride, scales, flip)
        self._matrix: Tensor | None = None
        self._absent: list[str] = []

    @classmethod
    def initial_weights(cls, net: nn.Module, init: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
        assert isinstance(net, Segmenter)
        if init["checkpoint"] and init["images"]:
            raise UserError(f"init.checkpoint={init['checkpoint']} and init.images={init['images']}: give one of them")
        if init["checkpoint"]:
            return [load_network(net, init["checkpoint"], keep_classifier=init["keep_classifier"])]
        return [load_backbone(net, init["images"])] if init["images"] else []

    @property
    def called_modules(self) -> Sequence[nn.Module]:
        return [self.net.get_submodule(name) for name in ("backbone", "head", "auxiliary")]

    def model_summary(self, data: Any) -> tuple[list[str], dict[str, float]]:
        size = data.crops.crop
        parameters = sum(parameter.numel() for parameter in self.net.parameters())
        gmacs = multiply_adds(self.net, (1, 3, *size)) / 1e9
        line = f"{title_of(self.net)}: {cost_line(parameters, gmacs, size)}"
        return [line], {"parameters": parameters, "gmacs": gmacs}

    def forward(self, image: Tensor) -> Tensor:
        """The probabilities of the classes (K, H, W) at the pixels of an image (3, H, W) uint8."""
        return scores(self.net, image[None].float() / 255, self.views)[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = torch.stack(batch["images"]).float() / 255
        targets = torch.stack(batch["labels"]).long()
        total = sum_over_ranks((targets != _IGNORED).sum()).clamp(min=1)
        # DDP averages gradients over the ranks; times the number of ranks it is the mean over the global batch.
        losses = [
            F.cross_entropy(logits.float(), targets, ignore_index=_IGNORED, reduction="sum") * world_size() / total
            for logits in self.net.with_auxiliary(images)  # type: ignore[operator]
        ]
        loss = losses[0] + self.auxiliary_weight * losses[1]
        means = sum_over_ranks(torch.stack([loss, *losses]).detach()) / world_size()
        self.log("train/loss", means[0], prog_bar=True, batch_size=1)
        self.log_dict({"train/loss_head": means[1], "train/loss_auxiliary": means[2]}, batch_size=1)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._count(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._count(batch)

    def reset(self) -> None:
        super().reset()
        self._matrix = None
        self._images = 0

    def log_metrics(self, stage: str) -> None:
        failed = self.failures()
        count = len(self.classes)
        mine = torch.zeros(count, count, dtype=torch.int64) if self._matrix is None else self._matrix
        matrix = sum_over_ranks(mine.to(self.device)).cpu()
        images = int(sum_over_ranks(torch.tensor(self._images, device=self.device)))
        metrics = segmentation_metrics(matrix) | {"images": float(images)}
        if failed:  # beside the others, so that nobody takes them for those of all images
            metrics["images_missing"] = float(len(failed))
            print_once(f"{stage}: {describe_missing(images, failed, 'images')}")
        ious = class_ious(matrix)
        self._absent = [name for name, iou in zip(self.classes, ious.tolist(), strict=True) if iou != iou]
        if is_first() and not self.trainer.sanity_checking:
            name = "iou.csv" if stage == "val" else f"iou-{stage}.csv"
            write_bytes(Path(self.trainer.default_root_dir) / name, self._table(matrix).encode())
        # As tensors: of numbers Lightning keeps float32.
        self.log_same({f"{stage}/{k}": torch.tensor(value, dtype=torch.float64) for k, value in metrics.items()})

    def metric_names(self) -> list[str]:
        return [*_METRICS, "images"]

    def absent_classes(self) -> list[str]:
        return self._absent

    def _count(self, batch: Batch) -> None:
        self.note_failures(batch)
        readable = [k for k, weight in enumerate(batch["weights"].tolist()) if weight > 0]
        self._images += len(readable)
        for group in _of_one_size([(batch["images"][k], batch["labels"][k]) for k in readable]):
            images = torch.stack([image for image, _ in group]).float() / 255
            targets = torch.stack([target for _, target in group])
            found = labels(scores(self.net, images, self.views), targets.shape[-2:])
            matrix = confusion(targets, found, len(self.classes))
            self._matrix = matrix if self._matrix is None else self._matrix + matrix

    def _table(self, matrix: Tensor) -> str:
        """The figures of every class as CSV; empty where there are none."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["class", "iou", "accuracy", "pixels"])
        rows = (class_ious(matrix).tolist(), class_accuracies(matrix).tolist(), matrix.sum(1).tolist())
        for name, iou, accuracy, pixels in zip(self.classes, *rows, strict=True):
            table.writerow([name, *("" if value != value else f"{value:.6f}" for value in (iou, accuracy)), pixels])
        return text.getvalue()


def views(window: Sequence[int] | None, stride: Sequence[int] | None, scales: Sequence[float], flip: bool) -> Views:
    """The settings of `task` as `Views`. Raises UserError for what cannot be."""
    try:
        return Views(_sides(window), _sides(stride), tuple(map(float, scales)), bool(flip))
    except UserError as error:
        raise UserError(f"task.{error}") from None


def _sides(pair: Sequence[int] | None) -> tuple[int, int] | None:
    return None if pair is None else (int(pair[0]), int(pair[-1]))


def _of_one_size(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[list[tuple[Tensor, Tensor]]]:
    """Images and labels in groups of equal sizes, to be looked at together."""
    groups: dict[tuple[torch.Size, torch.Size], list[tuple[Tensor, Tensor]]] = {}
    for image, target in pairs:
        groups.setdefault((image.shape, target.shape), []).append((image, target))
    return list(groups.values())
