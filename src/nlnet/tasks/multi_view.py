"""Validation of a trained network with many views of each video."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from nlnet.distributed import gather, print_once
from nlnet.errors import UserError
from nlnet.evaluation.predictions import Predictions
from nlnet.evaluation.video_metrics import VideoMetrics
from nlnet.evaluation.views import Views, view_scores
from nlnet.models import optimize_for_inference
from nlnet.tasks.missing import check_missing, describe_missing, first_errors

Scored = tuple[int, np.ndarray, np.ndarray]
"""A video: its index in the manifest, the (V, K) scores of its views, its target."""


class Classifier(Protocol):
    """What is needed of a classification task."""

    net: nn.Module
    kind: str
    classes: tuple[str, ...]
    max_missing_eval: int
    metrics: VideoMetrics


class ViewEvaluation(pl.LightningModule):
    """Scores videos from many views each and logs the metrics of `Predictions.metrics`.

    Args:
        task: the network, its kind, classes and groups.
        views: the views.
        window: what `nlnet.models.resnet3d.ResNet3d.dense` averages over; None for a network without `dense`.
        keys: the videos of the manifest.
        protocol: plain values that say in words how the views are taken.
    """

    def __init__(
        self,
        task: Classifier,
        views: Views,
        window: tuple[int, int] | None,
        keys: list[str],
        protocol: dict[str, Any],
    ) -> None:
        super().__init__()
        self.task, self.views, self.window, self.keys, self.protocol = task, views, window, keys, protocol
        self.predictions: Predictions | None = None
        self._net: list[nn.Module] = []  # not a part of this module, whose parts are moved and counted
        self._scored: list[Scored] = []
        self._failed: list[tuple[str, str]] = []
        self._errors: dict[str, str] = {}

    def on_validation_epoch_start(self) -> None:
        self._scored, self._failed, self._errors = [], [], {}
        self._net = [self.task.net]
        if self.device.type == "cpu" and str(self.trainer.precision) == "32-true":
            self._net = [optimize_for_inference(self.task.net)]
            print_once("on a CPU: norms and ReLUs are part of the convolutions, which changes rounding alone")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._failed += batch["failures"]
        self._errors = batch.get("errors", {}) | self._errors
        real = batch["weights"] > 0
        indices, targets = batch["indices"][real].tolist(), batch["targets"][real].cpu().numpy()
        for index, target, video, clips in zip(indices, targets, batch["videos"], batch["frame_indices"], strict=True):
            scores = view_scores(self._net[0], video, clips, self.views, self.task.kind, self.window)
            self._scored.append((index, scores.cpu().numpy(), target))

    def on_validation_epoch_end(self) -> None:
        of_ranks = gather((self._failed, self._errors))
        failed = sorted(failure for of_rank, _ in of_ranks for failure in of_rank)
        check_missing(failed, self.task.max_missing_eval, errors=first_errors(errors for _, errors in of_ranks))
        self.predictions = gather_predictions(self.task, self._scored, self.keys, self.protocol)
        metrics, absent = self.predictions.metrics(self.task.metrics.further)
        self.task.metrics.note_absent(absent)
        if failed:
            metrics["videos_missing"] = torch.tensor(float(len(failed)))
            print_once(f"val: {describe_missing(len(self.predictions.keys), failed)}")
        same = {f"val/{name}": value.float() for name, value in metrics.items()}
        self.log_dict(same, batch_size=1, sync_dist=True, reduce_fx="max")  # as `Task.log_same` does


def gather_predictions(
    task: Classifier, scored: list[Scored], keys: Sequence[str], protocol: dict[str, Any]
) -> Predictions:
    """The videos that all ranks scored, in the order of the manifest. Call it on every rank.

    Raises UserError where there is none.
    """
    everything = sorted((video for of_rank in gather(scored) for video in of_rank), key=lambda video: video[0])
    if not everything:
        raise UserError("no video was scored; check data.shards and trainer.limit_val_batches")
    return Predictions(
        kind=task.kind,
        classes=task.classes,
        keys=tuple(keys[index] if keys else str(index) for index, _, _ in everything),
        targets=np.stack([target for _, _, target in everything]),
        views=np.stack([views for _, views, _ in everything]),
        protocol=protocol,
        groups=task.metrics.groups,
    )
