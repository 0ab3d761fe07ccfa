"""Decides, before a video is opened, which goes into which shard: the same files and settings give the same plan."""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nlnet.data.annotations.readers import read_annotations
from nlnet.data.annotations.records import Annotations, Record
from nlnet.data.media.suffixes import VIDEO_FILES
from nlnet.data.prepare.images import ImageFiles, in_both
from nlnet.data.prepare.settings import Settings
from nlnet.data.prepare.videos import Unusable, VideoFiles
from nlnet.errors import UserError

SHARD_BYTES = 0.5e9
NOT_USED = "not used"


@dataclass(frozen=True, slots=True)
class Item:
    """A record with its key in the shards and its file; `whole` if the file may be longer than the record's segment.

    `others` are files of the same name, to be tried where this one cannot be read.
    """

    record: Record
    key: str
    path: Path
    whole: bool
    others: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that is not in the shards: `cause` is a short phrase to count by. `NOT_USED` is that of a file beside
    another that was taken; files and folders of no known split have an empty one."""

    split: str
    video: str
    cause: str
    detail: str

    @property
    def skipped(self) -> bool:
        """Whether a video is missing for it."""
        return self.cause != NOT_USED


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

    @property
    def remarks(self) -> list[str]:
        """What is hardly meant with the annotations of images, in lines."""
        lines = [line for split, found in self.annotations.plausible.items() for line in found.lines(split)]
        if self.annotations.images:
            lines += in_both((split, item.path) for split, _, items in self.shards for item in items)
        return lines


def make_plan(settings: Settings) -> Plan:
    """Reads the annotations, looks for the videos, shuffles each split once and cuts it into shards.

    Raises UserError for folders that do not exist, for annotations that cannot be read, for two files that could both
    be a video, and if no video is found at all.
    """
    places = settings.annotations if isinstance(settings.annotations, tuple) else (settings.annotations,)
    for path in places:
        if not path.exists():
            raise UserError(f"annotations={path}: there is no such folder")
    if not settings.videos.is_dir():
        raise UserError(f"videos={settings.videos}: there is no such folder")
    annotations = read_annotations(settings.annotations, settings.dataset, settings.reader)
    if annotations.images:
        items, failures = _images(annotations, settings)
    else:
        items, failures = _match_videos(annotations, VideoFiles(settings.videos, settings.out))
    if not items and annotations.images:
        first = f", the first {failures[0].video}: {failures[0].detail}" if failures else ""
        count = f"{len(annotations.records):,}"
        raise UserError(f"videos={settings.videos}: none of the {count} images of the annotations is here{first}")
    if not items:
        wanted = [record.stems[-1] for record in annotations.records[:3]]
        raise UserError(
            f"videos={settings.videos}: none of the {len(annotations.records):,} files of the annotations is here"
            f" (looked in all folders for {', '.join(wanted)}, ... with {', '.join(sorted(VIDEO_FILES))})"
        )
    sizes = {path: path.stat().st_size for item in items for path in (item.path, *item.others)}
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


def _match_videos(annotations: Annotations, files: VideoFiles) -> tuple[list[Item], list[Failure]]:
    items: list[Item] = []
    failures = [Failure(split, name, "no labels", why) for split, name, why in annotations.left_out]
    failures += [Failure("", str(folder.path), folder.cause, folder.detail) for folder in files.folders]
    seen: set[tuple[str, str, float | None, float | None]] = set()
    keys: set[tuple[str, str]] = set()
    cut: dict[tuple[str, Path], Record] = {}  # files that hold one segment, and whose it is
    for record in annotations.records:
        row = record.split, record.video, record.start, record.end
        if row in seen:
            failures.append(Failure(record.split, record.video, "duplicate", "listed before; the first row counts"))
            continue
        seen.add(row)
        paths, unusable, whole = files.find(record)
        failures += [Failure(record.split, record.video, NOT_USED, bad.detail) for bad in unusable if paths]
        owner = cut.setdefault((record.split, paths[0]), record) if paths and not whole else record
        if not paths:
            failures.append(_nowhere(record, unusable, files))
        elif owner is not record and owner.start != record.start:
            why = f"{paths[0]} may be its segment from {owner.start} s or from {record.start} s; the first row has it"
            failures.append(Failure(record.split, record.video, "duplicate", why))
        else:
            key = next(key for key in _keys(record.video) if (record.split, key) not in keys)
            keys.add((record.split, key))
            items.append(Item(record, key, paths[0], whole, paths[1:]))
    return items, failures


def _nowhere(record: Record, unusable: list[Unusable], files: VideoFiles) -> Failure:
    """Why a record has no file."""
    if unusable:
        return Failure(record.split, record.video, unusable[0].cause, "; ".join(bad.detail for bad in unusable))
    why = f"no {' or '.join(record.stems)} in {files.root}"
    if other := files.nearly(record):
        why += f"; {other} has not the suffix of a video ({', '.join(sorted(VIDEO_FILES))})"
    return Failure(record.split, record.video, "missing", why)


def _images(annotations: Annotations, settings: Settings) -> tuple[list[Item], list[Failure]]:
    items, failures = [], []
    keys: set[tuple[str, str]] = set()
    found = ImageFiles(settings.videos, settings.out, settings.formats).find(annotations.records)
    for record, file in zip(annotations.records, found, strict=True):
        if isinstance(file, Path):
            stem = record.video.rpartition(".")[0] or record.video
            key = next(key for key in _keys(stem) if (record.split, key) not in keys)
            keys.add((record.split, key))
            items.append(Item(record, key, file, False))
        else:
            failures.append(Failure(record.split, record.video, *file))
    return items, failures


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
