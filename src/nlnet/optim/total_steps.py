"""How many optimizer steps a training takes, for schedules."""

import math

import pytorch_lightning as pl

from nlnet.errors import UserError


def total_steps(trainer: pl.Trainer) -> int:
    """Optimizer steps until `max_steps` or `max_epochs`, whichever ends first.

    `Trainer.estimated_stepping_batches` is no substitute: it starts the training loader while the optimizers are made,
    before a checkpoint's position in the data is restored, and the resumed run begins its epoch anew.
    """
    if trainer.max_steps >= 0 and trainer.max_epochs in (-1, None):
        return trainer.max_steps
    if trainer.max_epochs in (-1, None):
        raise UserError("the run has no end: set trainer.max_epochs or trainer.max_steps")
    batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit: int | float = trainer.overfit_batches or trainer.limit_train_batches  # type: ignore[attr-defined]
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs = math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs
    return min(epochs, trainer.max_steps) if trainer.max_steps >= 0 else epochs
