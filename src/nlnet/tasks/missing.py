"""Evaluation videos that could not be read, over all ranks."""

from collections.abc import Sequence
from typing import TypeVar

import torch.distributed

from nlnet.errors import UserError

T = TypeVar("T")


def gather(mine: Sequence[T]) -> list[T]:
    """The items of all ranks. Call it on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(mine)
    shares: list[Sequence[T]] = [()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, mine)
    return [item for share in shares for item in share]


def check_missing(failed: Sequence[tuple[str, str]], allowed: int) -> None:
    """Stop if more than `allowed` validation videos, (key, cause), could not be read. Raises UserError."""
    if len(failed) > allowed:
        raise UserError(
            f"{len(failed)} validation videos could not be read: {_named(failed)};"
            f" repair them, or allow it with data.max_missing_eval={len(failed)}"
        )


def beside(read: int, failed: Sequence[tuple[str, str]]) -> str:
    """What stands beside the figures of `read` videos where others failed."""
    return f"{read} of {read + len(failed)} videos; could not read {_named(failed)}"


def _named(failed: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{key} ({cause})" for key, cause in failed[:10]) + (", ..." if len(failed) > 10 else "")
