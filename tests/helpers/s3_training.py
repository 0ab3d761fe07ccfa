"""Training processes that read from an S3 server on loopback."""

import os
from collections.abc import Sequence

from helpers.processes import train_command, train_rank


def train_from(environment: dict[str, str], overrides: Sequence[str], log: str) -> None:
    """What `python src/train.py OVERRIDES` does in `environment`, in this process."""
    os.environ |= environment
    train_command(overrides, log)


def train_rank_from(
    rank: int, world_size: int, port: int, environment: dict[str, str], overrides: Sequence[str], log: str
) -> None:
    """One rank of a training in `environment`."""
    os.environ |= environment
    train_rank(rank, world_size, port, overrides, log)
