"""What the ranks of a run tell each other while they work: notes in the store through which they have met."""

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from torch.distributed import PrefixStore, TCPStore

_FIRST = "first cause"


class Note(NamedTuple):
    """How far a rank is. `beat` grows while its process lives, `passes` while its training does."""

    beat: int = 0
    passes: int = 0
    place: str = "has not begun"
    where: str = ""
    waits: bool = False
    """Whether it stands in a call that returns when the others have made it, too."""
    left: bool = False
    """Whether it has ended as it should."""


class Board:
    """The notes of all ranks and the first cause of an end, which one alone can write. For one thread.

    Args:
        address, port: of the store's server, which is rank 0, or the agent of torchrun beside it.
        name: of this meeting: a store may outlive it.
        rank, world_size: of this process.
        timeout_s: how long the server may take to answer.
    """

    def __init__(self, address: str, port: int, name: str, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank, self.world_size = rank, world_size
        client = TCPStore(
            address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=max(timeout_s, 1))
        )
        self._store = PrefixStore(f"nlnet/watch/{name}", client)

    def write(self, note: Note) -> None:
        self._store.set(_key(self.rank), json.dumps(note))

    def notes(self, ranks: Sequence[int] | None = None) -> list[Note]:
        """Those of these ranks, or of all."""
        ranks = range(self.world_size) if ranks is None else ranks
        there = [self._store.check([_key(rank)]) for rank in ranks]
        found = iter(
            self._store.multi_get([_key(rank) for rank, is_there in zip(ranks, there, strict=True) if is_there])
        )
        return [Note(*json.loads(next(found))) if is_there else Note() for is_there in there]

    def first_cause(self) -> str | None:
        """Why the run ends; None as long as it does not."""
        return self._store.get(_FIRST).decode() if self._store.check([_FIRST]) else None

    def end(self, cause: str) -> str:
        """Say why the run ends; returns what another rank has said before, if one has."""
        return self._store.compare_set(_FIRST, "", cause).decode()


def meeting_point() -> tuple[str, int]:
    """Address and port of the store's server, as every launcher names it and Lightning after it."""
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def serves(rank: int) -> bool:
    """Whether this rank is the server: the first one, unless torchrun's agent is."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _key(rank: int) -> str:
    return f"rank {rank}"
