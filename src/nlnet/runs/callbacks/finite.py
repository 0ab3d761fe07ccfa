"""No update by a number that is none, no checkpoint with one, and no metric of one."""

from contextlib import ExitStack
from math import inf, isfinite
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from nlnet.distributed import gather, sum_over_ranks, world_size
from nlnet.errors import UserError
from nlnet.models.finite import is_number, local, not_finite_weight, watched

_SHOWN = 64  # samples


class FiniteNumbers(Callback):
    """Stops a run at a number that is not finite, whatever its task is.

    - In training before the update: the loss of each batch, and the gradients it is made with. A GradScaler
      (trainer.precision=16-mixed) skips steps whose gradients are infinite, as it is meant to; there the loss alone
      counts.
    - Before a checkpoint is written: its weights.
    - In an evaluation before its metrics: what the network says of each sample.

    The ranks decide together. It names the samples, the learning rate and the parts of the loss that were logged.

    Args:
        checkpoint: the run's `last.ckpt`, which the message names if it is there; None for an evaluation.
    """

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.checkpoint = checkpoint
        self._batches: list[dict[str, Tensor]] = []  # since the last update: several where gradients are accumulated
        self._losses: list[Tensor] = []
        self._spoiled: list[str] = []  # samples of this evaluation
        self._watch = ExitStack()
        self._batch: Any = None

    # ---- training

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        self._batches.append({name: batch[name] for name in ("indices", "weights")})

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach().float().sum())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        gradients = [] if scaled else _gradients(optimizer)
        # The largest magnitude, which unlike the Euclidean norm does not overflow before its parts do.
        values = self._losses + ([get_total_norm(gradients, inf)] if gradients else [])
        if values and sum_over_ranks((~torch.stack(values).isfinite()).sum()):
            raise UserError(self._reason(trainer, pl_module, optimizer))
        self._losses, self._batches = [], []

    def _reason(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> str:
        """Why the run stops; the same on every rank."""
        keys = getattr(trainer.datamodule, "train_keys", ())  # type: ignore[attr-defined]
        names = [name for batch in self._batches for name in _names(batch, keys)]
        losses = [float(loss) for loss in self._losses]
        own = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
        named = {name: p.grad for name, p in pl_module.named_parameters() if id(p) in own and p.grad is not None}
        parameters = [name for name, gradient in named.items() if not local(gradient).isfinite().all()]
        ranks = gather((losses, names, parameters))
        parts = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        said = ", ".join(f"{name}={value}" for name, value in parts.items() if not isfinite(value))
        losses = [loss for of_rank, _, _ in ranks for loss in of_rank]
        if any(not isfinite(loss) for loss in losses):
            what = f"the loss is not finite ({said or ', '.join(map(str, losses))})"
        else:
            wrong = next((of_rank for _, _, of_rank in ranks if of_rank), [])
            what = f"the loss is {losses[-1]:.6g}, and {len(wrong)} of its gradients are not finite ({_few(wrong, 3)})"
        kept = f" {self.checkpoint} is of an earlier step." if self.checkpoint and self.checkpoint.is_file() else ""
        return (
            f"step {trainer.global_step + 1}, at learning rate {optimizer.param_groups[0]['lr']:.6g}: {what}, on the"
            f" {_things(pl_module)} {_few([name for _, of_rank, _ in ranks for name in of_rank])}. The weights are as"
            f" before this step.{kept} Look at these samples, lower optim.optimizer.lr, or set"
            " trainer.gradient_clip_val"
        )

    # ---- checkpoints

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        name = not_finite_weight(pl_module)
        anywhere = name is not None
        if world_size() > 1:
            anywhere = trainer.strategy.reduce_boolean_decision(anywhere, all=False)
        if anywhere:
            raise UserError(
                f"step {trainer.global_step}: the weights are not finite ({name or 'on another rank'}), and no"
                " checkpoint is written with them; lower optim.optimizer.lr, or set trainer.gradient_clip_val"
            )

    # ---- evaluation

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(pl_module)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._batch = batch, getattr(trainer.datamodule, "val_keys", ())  # type: ignore[attr-defined]

    on_test_batch_start = on_validation_batch_start

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge(pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._watch.close()

    def _begin(self, pl_module: pl.LightningModule) -> None:
        self._watch.close()
        self._spoiled, self._batch = [], None
        self._watch.enter_context(watched(getattr(pl_module, "scorers", ()), self._note))

    def _note(self, output: Tensor) -> None:
        if self._batch is not None:
            batch, keys = self._batch
            self._spoiled += [name for name in _names(batch, keys, output) if name not in self._spoiled]

    def _judge(self, pl_module: pl.LightningModule) -> None:
        self._watch.close()
        spoiled = [name for of_rank in gather(self._spoiled) for name in of_rank]
        if spoiled:
            raise UserError(
                f"what the network says of {len(spoiled)} {_things(pl_module)} is not finite, and no metric is made of"
                f" it: {_few(spoiled)}; look at these samples, or take weights of an earlier step"
            )


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    """All gradients, as far as this rank has them: it may have nothing of a small one that is sharded."""
    gradients = [local(p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return [gradient for gradient in gradients if gradient.numel()]


def _names(batch: Any, keys: Any, output: Tensor | None = None) -> list[str]:
    """The samples of a batch that could be read; those alone whose row of `output` is bad, where it has such rows."""
    indices, real = batch["indices"].tolist(), (batch["weights"] > 0).tolist()
    slots = [k for k, good in enumerate(real) if good]
    if output is not None and output.ndim and len(output) in (len(real), len(slots)):
        bad = (~is_number(output).flatten(1).all(1) if output.ndim > 1 else ~is_number(output)).tolist()
        rows = slots if len(output) == len(slots) else range(len(real))
        slots = [slot for slot, spoiled in zip(rows, bad, strict=True) if spoiled and real[slot]]
    return [keys[indices[k]] if keys else str(indices[k]) for k in slots]


def _things(pl_module: pl.LightningModule) -> str:
    return getattr(pl_module, "samples", "samples")


def _few(names: list[str], count: int = _SHOWN) -> str:
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
