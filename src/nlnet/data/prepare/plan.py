"""Decides, before a video is opened, which goes into which shard: the same files and settings give the same plan."""

import hashlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nlnet.data.annotations.readers import read_annotations
from nlnet.data.annotations.records import Annotations, Record
from nlnet.data.media.suffixes import IMAGE_FILES, VIDEO_FILES
from nlnet.data.prepare.settings import Settings
from nlnet.errors import UserError

SHARD_BYTES = 0.5e9


@dataclass(frozen=True, slots=True)
class Item:
    """A record with its key in the shards and its file; `whole` if the file may be longer than the record's segment."""

    record: Record
    key: str
    path: Path
    whole: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that is not in the shards: `cause` is a short phrase to count by."""

    split: str
    video: str
    cause: str
    detail: str


@dataclass(frozen=True)
class Plan:
    """Shards (split, number in the split, items), the failures known beforehand, and a digest of the input."""

    annotations: Annotations
    shards: tuple[tuple[str, int, tuple[Item, ...]], ...]
    failures: tuple[Failure, ...]
    inputs: str

    @property
    def splits(self) -> list[str]:
        """The splits in the order of the annotations."""
        return list(dict.fromkeys(record.split for record in self.annotations.records))


def make_plan(settings: Settings) -> Plan:
    """Reads the annotations, looks for the videos, shuffles each split once and cuts it into shards.

    Raises UserError for folders that do not exist, for annotations that cannot be read, for two files that could both
    be a video, and if no video is found at all.
    """
    for name in ("annotations", "videos"):
        path: Path = getattr(settings, name)
        if not path.exists() or (name == "videos" and not path.is_dir()):
            raise UserError(f"{name}={path}: there is no such folder")
    annotations = read_annotations(settings.annotations, settings.dataset, settings.reader)
    suffixes = IMAGE_FILES if annotations.images else VIDEO_FILES
    files = _files(settings.videos, settings.out, suffixes)
    items, failures = _match(annotations, files, settings.videos)
    if annotations.images:
        items, strangers = _one_each(items)
        failures += strangers
    if not items:
        wanted = [record.stems[-1] for record in annotations.records[:3]]
        raise UserError(
            f"videos={settings.videos}: none of the {len(annotations.records):,} files of the annotations is here"
            f" (looked in all folders for {', '.join(wanted)}, ... with {', '.join(sorted(suffixes))})"
        )
    sizes = {item.path: item.path.stat().st_size for item in items}
    shards = []
    for split in dict.fromkeys(item.record.split for item in items):
        chosen = sorted((i for i in items if i.record.split == split), key=lambda i: _lot(settings.seed, split, i.key))
        chosen = chosen[: settings.limit]
        size = settings.samples_per_shard or _shard_size([sizes[item.path] for item in chosen])
        cuts = range(0, len(chosen), size)
        shards += [(split, number, tuple(chosen[i : i + size])) for number, i in enumerate(cuts)]
    names = sorted((str(path.relative_to(settings.videos)), size) for path, size in sizes.items())
    inputs = hashlib.sha256(repr((annotations, names)).encode()).hexdigest()
    return Plan(annotations, tuple(shards), tuple(failures), inputs)


def _files(folder: Path, out: Path | str, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    """Video or image files below `folder` by stem, in order; not what lies in `out`."""
    found: dict[str, list[Path]] = {}
    out = Path(out)
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if (Path(parent) / name).resolve() != out.resolve())
        for name in sorted(names):
            path = Path(parent) / name
            if path.suffix.lower() in suffixes:
                found.setdefault(path.stem, []).append(path)
    return found


def _match(annotations: Annotations, files: dict[str, list[Path]], root: Path) -> tuple[list[Item], list[Failure]]:
    items, failures = [], []
    seen: set[tuple[str, str, float | None, float | None]] = set()
    keys: set[tuple[str, str]] = set()
    for record in annotations.records:
        row = record.split, record.video, record.start, record.end
        stem = next((stem for stem in record.stems if stem in files), None)
        if row in seen:
            failures.append(Failure(record.split, record.video, "duplicate", "listed before; the first row counts"))
        elif stem is None:
            failures.append(Failure(record.split, record.video, "missing", f"no {' or '.join(record.stems)} in {root}"))
        else:
            key = next(key for key in _keys(record.video) if (record.split, key) not in keys)
            keys.add((record.split, key))
            whole = record.start is not None and stem == record.stems[-1]
            items.append(Item(record, key, _choose(files[stem], record), whole))
        seen.add(row)
    return items, failures


def _one_each(items: list[Item]) -> tuple[list[Item], list[Failure]]:
    """Images with a file of their own: one that two records name alike is that one's whose folder it lies in."""
    users: dict[Path, list[Item]] = {}
    for item in items:
        users.setdefault(item.path, []).append(item)
    kept, failures = [], []
    for item in items:
        others = [user for user in users[item.path] if user is not item]
        if not others or (_at_home(item) and not any(map(_at_home, others))):
            kept.append(item)
        else:
            why = f"the only file of that name is {item.path}, which {others[0].record.split} names too"
            failures.append(Failure(item.record.split, item.record.video, "missing", why))
    return kept, failures


def _at_home(item: Item) -> bool:
    return _plain(item.record.folder) in map(_plain, item.path.parts)


def _choose(paths: list[Path], record: Record) -> Path:
    """The one file of a name; of several, the one in the folder of its class or split."""
    for folder in (record.folder, record.split):
        if len(paths) > 1 and folder:
            named = [path for path in paths if _plain(folder) in map(_plain, path.parts)]
            paths = named or paths
    if len(paths) > 1:
        raise UserError(
            f"two files could be the video {record.video}: {paths[0]} and {paths[1]};"
            " name the folder of one of them with videos="
        )
    return paths[0]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def _keys(video: str) -> Iterator[str]:
    """Keys for a video id: itself where it is made of letters, digits, "_" and "-", then numbered ones."""
    base = re.sub(r"[^A-Za-z0-9_-]", "_", video)[:80] or "_"
    yield base
    number = 2
    while True:
        yield f"{base}-{number}"
        number += 1


def _lot(seed: int, split: str, key: str) -> bytes:
    return hashlib.sha256(f"{seed}/{split}/{key}".encode()).digest()


def _shard_size(sizes: list[int]) -> int:
    """Samples a shard so that shards are equal and near SHARD_BYTES, were each sample as large as its source."""
    shards = max(1, round(sum(sizes) / SHARD_BYTES))
    return math.ceil(len(sizes) / shards)
