"""A callback that validates with guesses near the truth in place of what an untrained network finds."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor


class GuessFromTruth(Callback):
    """Every image's guesses depend on its id alone, so they are the same on any number of ranks."""

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        targets = [t for t, weight in zip(batch["targets"], batch["weights"].tolist(), strict=True) if weight > 0]
        pl_module.forward = lambda images, sizes: [guess(target) for target in targets]


def guess(target: Mapping[str, Any]) -> dict[str, Tensor]:
    """Shifted boxes, some with another label, and one more than there is."""
    random = torch.Generator().manual_seed(int(target["image_id"]))
    height, width = target["orig_size"]
    extra = torch.tensor([[5.0, 5.0, 40.0, 30.0]])
    boxes = torch.cat([target["boxes"].float(), extra])
    boxes = boxes + torch.randint(-4, 5, boxes.shape, generator=random)
    boxes = torch.cat([boxes[:, :2].clamp(min=0), boxes[:, 2:].clamp(max=width)], 1)
    labels = torch.cat([target["labels"], torch.tensor([1])])
    found = {
        "boxes": boxes,
        "labels": torch.where(torch.rand(len(labels), generator=random) < 0.2, 1, labels),
        "scores": torch.randint(1, 6, (len(labels),), generator=random) / 6,
    }
    if "masks" in target:
        masks = torch.zeros(len(boxes), 1, height, width)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[:, y1:y2, x1:x2] = 1
        found["masks"] = masks
    if "keypoints" in target:
        points = torch.cat([target["keypoints"], torch.full((1, *target["keypoints"].shape[1:]), 20.0)])
        found["keypoints"] = points + torch.randn(points.shape, generator=random) * torch.tensor([3.0, 3.0, 0.0])
    return found
