"""Who runs a point: several sweepers may share a folder, and no two take the same point."""

import os
from pathlib import Path
from typing import Self

from nlnet.runs.durability.file_lock import open_locked
from nlnet.saving import CannotWrite


class Claim:
    """The right to run a point. It lasts until `release`, and as long as a process lives that it was handed to.

    So a sweeper that is killed leaves its points to others, but not while their trainings still go on. The file counts
    the attempts that failed: another sweeper sees that one has failed since it started, and leaves it at that.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self.descriptor = path, descriptor

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """The claim of the point whose file this is; None while another has it. Raises CannotWrite."""
        try:
            descriptor, locked = open_locked(path)
        except OSError as error:
            raise CannotWrite(path, error) from error
        if locked:
            return cls(path, descriptor)
        os.close(descriptor)
        return None

    def add_failure(self) -> None:
        """One more attempt has failed."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("failed\n")

    def release(self) -> None:
        """Give it back."""
        os.close(self.descriptor)


def failures(path: Path) -> int:
    """How many attempts at this point have failed."""
    try:
        return len(path.read_bytes().splitlines())
    except OSError:
        return 0
