"""Ranks: which one this process is, and what they know together."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nlnet.errors import UserError
from nlnet.text import say

T = TypeVar("T")

# In this order: under srun, torchrun's processes have Slurm's number of their node as well.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if _started() else 1


def rank(env: Mapping[str, str] = os.environ) -> int:
    """Which of them this is. Before they have found each other: what the launcher's environment says, or else 0."""
    if _started():
        return dist.get_rank()
    return next((int(env[name]) for name in _RANK_VARIABLES if env.get(name)), 0)


def is_first() -> bool:
    """Whether this is rank 0, which writes the run's files and prints."""
    return rank() == 0


def several_processes(trainer: Mapping[str, Any]) -> bool:
    """Whether these settings of the trainer mean several processes on this machine, or several machines."""
    if str(trainer.get("num_nodes", 1)) != "1":
        return True
    devices = trainer.get("devices", 1)
    if str(devices) in ("auto", "-1"):
        return str(trainer.get("accelerator", "auto")) != "cpu" and torch.cuda.device_count() > 1
    if not isinstance(devices, str) and isinstance(devices, Sequence):
        return len(devices) > 1
    text = str(devices)
    return len([part for part in text.split(",") if part.strip()]) > 1 if "," in text else text not in ("1", "0")


def print_once(text: str) -> None:
    """Print a line on rank 0 only."""
    if is_first():
        say(text)


# ---- what follows is called on every rank


def gather(mine: T) -> list[T]:
    """One item from every rank, on every rank."""
    items: list[Any] = [mine] * world_size()
    if len(items) > 1:
        dist.all_gather_object(items, mine)
    return items


def gather_on_first(mine: T) -> list[T]:
    """One item from every rank, on rank 0; the others get an empty list. For what may be long."""
    if world_size() == 1:
        return [mine]
    items: list[Any] = [mine] * world_size()
    dist.gather_object(mine, items if rank() == 0 else None)
    return items if rank() == 0 else []


def on_first(work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, on every rank. Its UserError is raised on every rank, so none is left waiting."""
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = error.args
    if world_size() > 1:
        dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(*outcome[1])
    return outcome[0]


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over all ranks, elementwise. No gradient passes."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value
