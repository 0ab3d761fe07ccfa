"""What the detector sees: a fixed grid of validation images, ground truth on the left, predictions on the right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from nlnet.prediction.drawing import draw, image_grid
from nlnet.runs.loggers import log_images
from nlnet.saving import replacing


class ImageGrid(Callback):
    """After every validation draws the first images of the split to `folder`/step-000123.png and to the loggers.

    The images are those of rank 0's first batches, the same ones each time.

    Args:
        folder: is made where it is not there.
        images: how many; 0 for none.
        threshold: the least score of a prediction that is drawn.
        max_side: larger images are drawn smaller.
    """

    def __init__(self, folder: str, images: int = 8, threshold: float = 0.5, max_side: int = 640) -> None:
        self.folder, self.images, self.threshold, self.max_side = Path(folder), images, threshold, max_side
        self._rows: list[list[np.ndarray]] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking or len(self._rows) >= self.images:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        options = {"classes": data.classes, "skeleton": data.skeleton or (), "threshold": self.threshold}
        readable = [k for k, weight in enumerate(batch["weights"].tolist()) if weight > 0]
        for k, prediction in zip(readable[: self.images - len(self._rows)], outputs["detections"], strict=False):
            target = batch["targets"][k]
            ratio = min(1.0, self.max_side / max(target["orig_size"]))
            height, width = (max(1, round(side * ratio)) for side in target["orig_size"])
            image = _resized(batch["images"][k].float(), height, width).round().byte().permute(1, 2, 0).cpu().numpy()
            ground_truth = _drawn_at(target, batch["images"][k].shape[-2:], (height, width))
            found = _drawn_at(prediction, target["orig_size"], (height, width))
            self._rows.append([draw(image, ground_truth, **options), draw(image, found, **options)])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._rows:
            return
        grid = image_grid(self._rows)
        with replacing(self.folder / f"step-{trainer.global_step:06d}.png") as temporary:
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grid).save(temporary, format="png")
        log_images(trainer.loggers, "val/image_grid", [grid], trainer.global_step)
        self._rows = []


def _drawn_at(instances: Mapping[str, Any], size: Sequence[int], new: tuple[int, int]) -> dict[str, Tensor]:
    """Boxes, masks and keypoints of an image of `size` (H, W) in pixels of one of `new`."""
    names = ("boxes", "labels", "scores", "masks", "keypoints")
    moved = {name: instances[name].detach().cpu() for name in names if name in instances}
    down, across = new[0] / int(size[0]), new[1] / int(size[1])
    moved["boxes"] = moved["boxes"] * moved["boxes"].new_tensor([across, down, across, down])
    if "keypoints" in moved:
        moved["keypoints"] = moved["keypoints"] * moved["keypoints"].new_tensor([across, down, 1.0])
    if len(moved.get("masks", ())):
        masks = moved["masks"].float().reshape(-1, 1, int(size[0]), int(size[1]))
        moved["masks"] = F.interpolate(masks, new)[:, 0]
    return moved


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)[0].clamp(0, 255)
