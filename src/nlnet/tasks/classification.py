"""Video classification: multi-label (Charades) and multi-class (Kinetics)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torchmetrics import MeanMetric

from nlnet.checkpoints.inflate import inflate_weights
from nlnet.checkpoints.weights import load_weights
from nlnet.config.protocol import describe as describe_protocol
from nlnet.config.protocol import views_of
from nlnet.data.modules.clips import ClipDataModule
from nlnet.data.modules.views import ViewDataModule
from nlnet.distributed import print_once, sum_over_ranks, world_size
from nlnet.errors import UserError
from nlnet.evaluation.average_precision import CHARADES_RULE
from nlnet.evaluation.metrics import Metrics
from nlnet.evaluation.predictions import Predictions
from nlnet.evaluation.video_metrics import VideoMetrics
from nlnet.evaluation.views import Views, training_window
from nlnet.models import ResNet3d, describe
from nlnet.tasks.missing import describe_missing
from nlnet.tasks.multi_view import ViewEvaluation, gather_predictions
from nlnet.tasks.task import Batch, Task
from nlnet.text import shown

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, K), targets) -> (B,), the loss of each sample."""


class ClassificationTask(Task):
    """A network, its loss and its metrics.

    multilabel: loss is the mean over classes of the sigmoid cross-entropy, scores are sigmoids (paper section 5.2).
    multiclass: softmax cross-entropy and softmax scores (section 4).

    The loss is sum_b w_b l_b / sum_b w_b over the batch of *all* ranks, where w_b is 0 for a sample that could not be
    read: a rank whose whole slice failed contributes nothing and changes nothing for the others.

    Args:
        net: (B, 3, T, H, W) -> (B, K) logits.
        kind: "multilabel" or "multiclass".
        groups: named sets of class indices that are reported apart.
        subsets: named sets of indices of validation videos that are reported apart.
        loss: (logits (B, K), targets) -> (B,) instead of the cross-entropy of `kind`; targets are (B, K) of 0 and 1 for
            multilabel, (B,) class indices for multiclass.
        metrics: further metrics by name, each (scores (N, K), targets) -> a number, of all validation videos at once.
        shared: classes, optimizer and what else every task has; see `Task`.
    """

    predictor = "nlnet.prediction.videos.predict_videos"

    def __init__(
        self,
        net: nn.Module,
        kind: str,
        *,
        groups: Mapping[str, Sequence[int]],
        subsets: Mapping[str, Sequence[int]] | None = None,
        loss: Loss | None = None,
        metrics: Metrics | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(net, kind, **shared)
        self.metrics = VideoMetrics(kind, groups, metrics, subsets)
        self.eval_loss = MeanMetric(nan_strategy="disable")
        self._loss = loss or {"multilabel": sigmoid_cross_entropy, "multiclass": softmax_cross_entropy}[kind]

    @classmethod
    def data_arguments(cls, data: Any) -> dict[str, Any]:
        groups = {name: list(classes) for name, classes in getattr(data, "groups", {}).items()}
        subsets = {name: list(videos) for name, videos in getattr(data, "subsets", {}).items()}
        return super().data_arguments(data) | {"groups": groups, "subsets": subsets}

    @classmethod
    def check_kind(cls, kind: str, data: Any) -> None:
        given = getattr(data, "kind", kind)
        if kind != given:
            raise UserError(f"task.kind={kind}, but the shards in {data.shards} are {given}; set task={given}")

    @classmethod
    def initial_weights(cls, net: nn.Module, init: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
        if init["checkpoint"] and init["images"]:
            raise UserError(f"init.checkpoint={init['checkpoint']} and init.images={init['images']}: give one of them")
        if init["checkpoint"]:
            return [load_weights(net, init["checkpoint"], keep_classifier=init["keep_classifier"])]
        if model.get("norm") == "frozen":
            raise UserError(
                "model.norm=frozen: this run continues from weights trained with batch norm; give them with"
                " init.checkpoint=FILE (the experiment's file says which), or start at random with model.norm=batch"
            )
        if not init["images"]:
            return []
        if not isinstance(net, ResNet3d):
            raise UserError(
                f"init.images={init['images']}: {type(net).__name__} is not a network of nlnet.build_model; load its"
                " weights in the function that builds it, and set init.images=null"
            )
        return [inflate_weights(net, init["images"], inflation=init["inflation"])]

    @classmethod
    def plan_evaluation(cls, protocol: DictConfig, data: Mapping[str, Any]) -> Views | None:
        return views_of(protocol, int((data.get("scale") or [256])[0]))

    def model_summary(self, data: Any) -> tuple[list[str], dict[str, float]]:
        if not isinstance(data, ClipDataModule):
            return super().model_summary(data)
        summary = describe(self.net, data.clip_shape, *data.further_shapes)
        lines = [str(summary)]
        if short := data.short_videos():
            lines.append(
                f"{short} of {len(data.train.samples)} training videos are shorter than the clip; their frames repeat"
            )
        return lines, {"parameters": summary.parameters, "gmacs": summary.gmacs}

    def evaluate(
        self, trainer: pl.Trainer, data: pl.LightningDataModule, protocol: DictConfig, views: Views | None
    ) -> Predictions | None:
        keys = list(getattr(data, "val_keys", ()))
        if views is None:
            trainer.validate(self, data, verbose=False)
            return self._center_predictions(keys, describe_protocol(protocol, None, None))
        if not isinstance(data, ClipDataModule):
            raise UserError(f"protocol={protocol.name} needs a ClipDataModule, and data is a {type(data).__name__}")
        window = training_window(self.net, data.clip_shape, views)
        evaluation = ViewEvaluation(self, views, window, keys, describe_protocol(protocol, views, window))
        source = ViewDataModule(data, views.clips, views.starts)
        try:
            trainer.validate(evaluation, source, verbose=False)
        finally:
            source.close()
        return evaluation.predictions

    def forward(self, inputs: Tensor, *further: Tensor) -> Tensor:
        weight = next(self.net.parameters(), None)  # of another type with a precision such as 64-true
        return self.net(inputs if weight is None else inputs.to(weight.dtype), *further)

    def logits(self, batch: Batch) -> Tensor:
        """(B, K) of a batch: where a network takes more of it than the clips, a subclass says so."""
        return self(batch["inputs"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        weights = batch["weights"]
        total = sum_over_ranks(weights.sum())
        logits, targets = self.logits(batch), batch["targets"]
        losses = self._losses(logits, targets)
        # DDP averages gradients over the ranks; times the number of ranks it is the sum over the global batch.
        loss = (weights * losses).sum() * world_size() / total.clamp(min=1)
        logged = {"train/loss": loss.detach() / world_size()}
        if self.kind == "multiclass":  # what the paper's Figure 4 draws of the training
            logged["train/top1"] = (weights * (logits.detach().argmax(1) == targets)).sum() / total.clamp(min=1)
        for (name, _), value in zip(logged.items(), sum_over_ranks(torch.stack([*logged.values()])), strict=True):
            self.log(name, value, prog_bar=name == "train/loss")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def reset(self) -> None:
        super().reset()
        self.metrics.reset()
        self.eval_loss.reset()

    def log_metrics(self, stage: str) -> None:
        failed = self.failures()
        metrics = self.metrics.compute() | {"loss": self.eval_loss.compute()}
        if failed:  # beside the others, so that nobody takes them for those of all videos
            metrics["videos_missing"] = torch.tensor(float(len(failed)))
            print_once(f"{stage}: {describe_missing(int(metrics['videos']), failed)}")
        self.log_same({f"{stage}/{name}": value.float() for name, value in metrics.items()})

    def metric_names(self) -> list[str]:
        of_groups = [f"{name}_{shown(group)}" for group in self.metrics.groups for name in ("mAP", "AUROC")]
        of_kind = ["top1", *(["top5"] if len(self.classes) > 5 else [])]
        return [
            *(of_kind if self.kind == "multiclass" else ["mAP", *of_groups]),
            *self.metrics.subset_names(),
            *self.metrics.further,
            "videos",
            "loss",
        ]

    def absent_classes(self) -> list[str]:
        return [self.classes[k] for k in self.metrics.absent_classes]

    def rules(self) -> dict[str, str]:
        return {"mAP": CHARADES_RULE} if self.kind == "multilabel" else {}

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._loss(logits.float(), targets)

    def _score(self, batch: Batch) -> None:
        self.note_failures(batch)
        real = batch["weights"] > 0
        logits = self.logits(batch)[real].float()
        targets = batch["targets"][real]
        self.eval_loss.update(self._losses(logits, targets))
        scores = logits.sigmoid() if self.kind == "multilabel" else logits.softmax(1)
        self.metrics.update(batch["indices"][real], scores, targets)

    def _center_predictions(self, keys: list[str], protocol: dict[str, Any]) -> Predictions:
        """The scores of the last validation, one view a video. Call it on every rank."""
        indices, scores, targets = self.metrics.videos()
        rows = zip(indices.tolist(), scores.numpy()[:, None], targets.numpy(), strict=True)
        return gather_predictions(self, list(rows), keys, protocol)


def sigmoid_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """mean_k -(t_k log s(z_k) + (1 - t_k) log(1 - s(z_k))), s the sigmoid: (B, K), (B, K) -> (B,)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def softmax_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(z)_t: (B, K), (B,) -> (B,)."""
    return F.cross_entropy(logits, targets, reduction="none")
