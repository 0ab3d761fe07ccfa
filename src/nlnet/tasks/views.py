"""Validation of a trained network with many views of each video."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from nlnet.errors import UserError
from nlnet.evaluation.predictions import Predictions
from nlnet.evaluation.views import Views, view_scores
from nlnet.tasks.classification import Batch, ClassificationTask
from nlnet.tasks.missing import beside, check_missing
from nlnet.tasks.ranks import gather

Scored = tuple[int, np.ndarray, np.ndarray]
"""A video: its index in the manifest, the (V, K) scores of its views, its target."""


class ViewEvaluation(pl.LightningModule):
    """Scores videos from many views each and reports the figures of `Predictions.figures`.

    Args:
        task: the network, its kind, classes and groups.
        views: the views.
        window: what `nlnet.models.resnet3d.ResNet3d.dense` averages over.
        keys: the videos of the manifest.
        protocol: plain values that say in words how the views are taken.
    """

    def __init__(
        self,
        task: ClassificationTask,
        views: Views,
        window: tuple[int, int],
        keys: list[str],
        protocol: dict[str, Any],
    ) -> None:
        super().__init__()
        self.task, self.views, self.window, self.keys, self.protocol = task, views, window, keys, protocol
        self.predictions: Predictions | None = None
        self._scored: list[Scored] = []
        self._failed: list[tuple[str, str]] = []

    def on_validation_epoch_start(self) -> None:
        self._scored, self._failed = [], []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._failed += batch["failures"]
        real = batch["weights"] > 0
        indices, targets = batch["indices"][real].tolist(), batch["targets"][real].cpu().numpy()
        for index, target, video, places in zip(indices, targets, batch["videos"], batch["places"], strict=True):
            scores = view_scores(self.task.net, video, places, self.views, self.task.kind, self.window)
            self._scored.append((index, scores.cpu().numpy(), target))

    def on_validation_epoch_end(self) -> None:
        failed = sorted(failure for share in gather(self._failed) for failure in share)
        check_missing(failed, self.task.max_missing_eval)
        self.predictions = gather_predictions(self.task, self._scored, self.keys, self.protocol)
        figures, self.task.metrics.absent_classes = self.predictions.figures()
        if failed:
            figures["videos_missing"] = torch.tensor(float(len(failed)))
            self.print(f"val: {beside(len(self.predictions.keys), failed)}")
        self.log_dict({f"val/{name}": value.float() for name, value in figures.items()})


def gather_predictions(
    task: ClassificationTask, scored: list[Scored], keys: list[str], protocol: dict[str, Any]
) -> Predictions:
    """The videos that all ranks scored, in the order of the manifest. Call it on every rank.

    Raises UserError where there is none.
    """
    everything = sorted((video for share in gather(scored) for video in share), key=lambda video: video[0])
    if not everything:
        raise UserError("no video was scored; check data.shards and trainer.limit_val_batches")
    return Predictions(
        kind=task.kind,
        classes=task.classes,
        keys=tuple(keys[index] for index, _, _ in everything),
        targets=np.stack([target for _, _, target in everything]),
        views=np.stack([views for _, views, _ in everything]),
        protocol=protocol,
        groups=task.metrics.groups,
    )


def center_predictions(task: ClassificationTask, keys: list[str], protocol: dict[str, Any]) -> Predictions:
    """The scores of the last validation by `task` itself, one view a video. Call it on every rank."""
    indices, scores, targets = task.metrics.videos()
    rows = zip(indices.tolist(), scores.numpy()[:, None], targets.numpy(), strict=True)
    return gather_predictions(task, list(rows), keys, protocol)
