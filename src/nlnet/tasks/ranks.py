"""What the ranks of a run know together; on one rank, what it knows itself. Call these on every rank."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from nlnet.errors import UserError

T = TypeVar("T")


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if _started() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if _started() else 0


def gather(mine: T) -> list[T]:
    """One item from every rank, on every rank."""
    shares: list[Any] = [mine] * world_size()
    if len(shares) > 1:
        dist.all_gather_object(shares, mine)
    return shares


def gather_on_first(mine: T) -> list[T]:
    """One item from every rank, on rank 0; the others get an empty list. For what may be long."""
    if world_size() == 1:
        return [mine]
    shares: list[Any] = [mine] * world_size()
    dist.gather_object(mine, shares if rank() == 0 else None)
    return shares if rank() == 0 else []


def on_first(work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, on every rank. Its UserError is raised on every rank, so none is left waiting."""
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = str(error)
    if world_size() > 1:
        dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over all ranks, elementwise. No gradient passes."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value
