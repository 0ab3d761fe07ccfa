"""A restored optimizer and schedule with the settings of the run that goes on."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nlnet.distributed import print_once

_OF_SCHEDULE = ("lr", "initial_lr", "params")


class AppliedSettings(Callback):
    """Applies what differs between a checkpoint's settings and those of the run that continues it.

    A checkpoint's state brings the old learning rate, weight decay and so on with it, and the rate at which the old
    schedule stood. Settings that have changed are applied to the restored optimizer; the schedule goes on where it
    would be if it had been this one from the first step, so also where the run has become longer. What has not changed
    stays as it was restored, bit for bit.

    `settings` are the dotted keys that differ, such as "optim.optimizer.weight_decay" and "trainer.max_epochs"; None in
    a run that continues nothing.
    """

    def __init__(self) -> None:
        self.settings: list[str] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.settings is None:
            return
        made: Any = pl_module.configure_optimizers() if trainer.lr_scheduler_configs else None
        if not isinstance(made, Mapping) or "lr_scheduler" not in made:  # a task's own way
            return
        config, fresh, schedule = trainer.lr_scheduler_configs[0], made["optimizer"], made["lr_scheduler"]["scheduler"]
        optimizer = trainer.optimizers[0]
        _apply_values(self.settings, optimizer, fresh)
        steps = config.scheduler.last_epoch
        if not _go_to(schedule, steps, replay=bool(self.settings)):
            return
        if _rates(fresh, schedule) != _rates(optimizer, config.scheduler):
            rate = fresh.param_groups[0]["lr"]
            print_once(f"learning rate of step {trainer.global_step + 1}: {rate:.6g}, by the new settings")
            config.scheduler.load_state_dict(schedule.state_dict())
            for group, other in zip(optimizer.param_groups, fresh.param_groups, strict=True):
                group["lr"], group["initial_lr"] = other["lr"], other["initial_lr"]


def _apply_values(settings: Sequence[str], optimizer: Optimizer, fresh: Optimizer) -> None:
    names = {key.removeprefix("optim.optimizer.") for key in settings if key.startswith("optim.optimizer.")}
    for group, other in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        group.update({name: other[name] for name in names - set(_OF_SCHEDULE) if name in other})
    if "fused" in names:
        optimizer.load_state_dict(optimizer.state_dict())  # which counts its steps where the other form looks for them


def _rates(optimizer: Optimizer, schedule: Any) -> tuple[list[Any], Any]:
    return [group["lr"] for group in optimizer.param_groups], getattr(schedule, "base_lrs", None)


def _go_to(schedule: Any, steps: int, *, replay: bool) -> bool:
    """Bring a new schedule to where it is after so many steps; whether that could be done.

    One that is a function of the step goes there at once. Any other is stepped there, if `replay` asks for it.
    """
    if isinstance(schedule, LambdaLR):
        schedule.last_epoch, schedule._step_count = steps, steps + 1
        with warnings.catch_warnings(action="ignore"):  # of torch, that this is meant for its own use
            schedule._last_lr = schedule.get_lr()
        for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate
        return True
    if replay and steps < 10**7 and hasattr(schedule, "get_lr"):
        with warnings.catch_warnings(action="ignore"):  # that the optimizer has made no step
            for _ in range(steps):
                schedule.step()
        return True
    return False
