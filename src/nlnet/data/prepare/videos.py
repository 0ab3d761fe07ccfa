"""Which files could be the video of a record: all that have its name, the best first, and what is wrong with others."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from nlnet.data.annotations.records import Record
from nlnet.data.media.suffixes import VIDEO_FILES
from nlnet.data.media.video import VideoError, probe
from nlnet.errors import UserError

_REPLACEMENT = "replacement"


class Unusable(NamedTuple):
    """A file or folder that cannot be used: `cause` is a short phrase to count by."""

    path: Path
    cause: str
    detail: str


class Named(NamedTuple):
    """The usable files with the name of a record, the best first; those that are not; whether the name is the last of
    the record's, that of a file which may still have to be cut."""

    paths: tuple[Path, ...]
    unusable: list[Unusable]
    whole: bool


class VideoFiles:
    """The videos below a folder, by their names; links are followed, but to no folder twice.

    Args:
        root: the folder.
        out: a folder that is left out.
    """

    def __init__(self, root: Path, out: Path | str) -> None:
        self.root, self.out = root, Path(out).resolve()
        self.folders: list[Unusable] = []  # that cannot be read
        self._by_stem: dict[str, list[Path]] = {}
        self._others: dict[str, Path] = {}  # files with other suffixes, by all that their names begin with
        self._seen = {_identity(root.stat())}
        for parent, folders, names in os.walk(root, followlinks=True, onerror=self._unreadable):
            folders[:] = [name for name in sorted(folders) if self._is_new(Path(parent) / name)]
            for name in sorted(names):
                self._add(Path(parent) / name)

    def find(self, record: Record) -> Named:
        """The files of a record. Raises UserError where two that can be read could be it alike."""
        bad: list[Unusable] = []
        for stem in record.stems:
            good, unusable = _usable(self._named(stem))
            bad += unusable
            if good:
                return Named(_ordered(good, record), bad, record.start is not None and stem == record.stems[-1])
        return Named((), bad, False)

    def _named(self, stem: str) -> list[Path]:
        """The files of this name, in any folder; of "folder/name" those in this folder below the root."""
        folder, slash, name = stem.rpartition("/")
        found = self._by_stem.get(name, [])
        return [path for path in found if path.parent == self.root / folder] if slash else found

    def nearly(self, record: Record) -> Path | None:
        """A file that has a name of the record's, but not the suffix of a video."""
        return next((self._others[stem] for stem in record.stems if stem in self._others), None)

    def _add(self, path: Path) -> None:
        if path.suffix.lower() in VIDEO_FILES:
            self._by_stem.setdefault(path.stem, []).append(path)
            return
        parts = path.name.split(".")
        for count in range(1, len(parts) + 1):
            self._others.setdefault(".".join(parts[:count]), path)

    def _is_new(self, folder: Path) -> bool:
        try:
            identity, place = _identity(folder.stat()), folder.resolve()
        except OSError as error:
            self._unreadable(error)
            return False
        new = identity not in self._seen and place != self.out
        self._seen.add(identity)
        return new

    def _unreadable(self, error: OSError) -> None:
        self.folders.append(Unusable(Path(str(error.filename)), "unreadable", f"{error.filename}: {error.strerror}"))


def plain(name: str) -> str:
    """A name without what folders and labels are written differently in."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _usable(paths: list[Path]) -> tuple[list[Path], list[Unusable]]:
    """The files that can be tried, each once however many links lead to it, and the others."""
    good: dict[tuple[int, int], Path] = {}
    bad = []
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            bad.append(Unusable(path, "missing", f"{path} is a link to {os.readlink(path)}, which is not there"))
        except OSError as error:
            bad.append(Unusable(path, "unreadable", f"{path}: {error.strerror}"))
        else:
            if not S_ISREG(status.st_mode):
                bad.append(Unusable(path, "unreadable", f"{path} is no regular file"))
            elif not status.st_size:
                bad.append(Unusable(path, "empty", f"{path} has 0 bytes"))
            else:
                good.setdefault(_identity(status), path)
    return list(good.values()), bad


def _ordered(paths: list[Path], record: Record) -> tuple[Path, ...]:
    """Those in a folder of replacements first, then those in the folder of the record's class, then of its split."""
    if len(paths) == 1:
        return tuple(paths)
    ranks = [_rank(path, record) for path in paths]
    best = [path for path, rank in zip(paths, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        best = [path for path in best if _opens(path)] or best
    if len(best) > 1 and _opens(best[0]):
        raise UserError(
            f"two files could be the video {record.video}: {best[0]} and {best[1]};"
            " name the folder of one of them with videos="
        )
    order = sorted(zip(ranks, paths, strict=True), key=lambda pair: (pair[1] not in best[:1], pair[0]))
    return tuple(path for _, path in order)


def rivals(chosen: Path, others: Iterable[Path], record: Record) -> list[Path]:
    """Those of `others` that might be expected instead: in a folder of the record's, or no worse than the chosen."""
    most = _rank(chosen, record)
    return [path for path in others if (rank := _rank(path, record)) <= most or not all(rank)]


def _rank(path: Path, record: Record) -> tuple[bool, ...]:
    folders = [plain(part) for part in path.parts[:-1]]
    homes = (plain(home) for home in (record.folder, record.split))
    return not any(name.startswith(_REPLACEMENT) for name in folders), *(home not in folders for home in homes)


def _opens(path: Path) -> bool:
    try:
        probe(path)
    except (VideoError, OSError):
        return False
    return True
