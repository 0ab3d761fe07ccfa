"""Manifests for WebDataset shards that have none: made once, by reading every shard from end to end.

A sample is a run of tar members with one key: one video (mp4, webm, mkv, mov, avi), and its label in `key.cls`, a class
index, or in `key.json`, which has `"label"`, a class index, or `"labels"`, class indices or [class, start s, end s].
"""

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand

from nlnet import limits
from nlnet.data.annotations.records import Labels
from nlnet.data.media.suffixes import VIDEO_MEMBERS
from nlnet.data.media.video import VideoError, VideoInfo, probe
from nlnet.data.shards import storage
from nlnet.data.shards.cache import PIECE, PIPE, ShardCache, default_folder, locked
from nlnet.data.shards.manifest import Manifest, Sample, Shard
from nlnet.data.shards.source import ReadSettings, check_pipe
from nlnet.data.shards.storage import RangesUnsupported, Stat, Traffic
from nlnet.data.shards.tar import Member, TarError, split_name, walk
from nlnet.errors import UserError
from nlnet.progress import Progress
from nlnet.reading import parse_json, read_bytes
from nlnet.saving import write_bytes
from nlnet.text import say

_VERSION = 2
_THREADS = 4


class LeftOut(Exception):
    """A sample that cannot be used, and why."""


class _Indexed(NamedTuple):
    shard: Shard
    samples: list[Sample]
    kinds: set[str]
    left_out: list[tuple[str, str]]
    strays: list[tuple[str, str]]


def expand(pattern: str) -> list[str]:
    """The URLs that a brace pattern such as `s3://bucket/train-{000000..000099}.tar` stands for."""
    return list(braceexpand(pattern))


def index(urls: Sequence[str], dataset: str, split: str, settings: ReadSettings) -> Manifest:
    """The manifest of `urls`, whose shards are named by their whole URL. Kept in the cache folder for the next time.

    Samples that cannot be used are left out, and reported on standard error.
    Raises UserError for a shard that is missing or no tar, and for labels of two kinds.
    """
    for url in urls:
        check_pipe(url, settings.allow_pipe)
    folder = Path(settings.cache_dir) if settings.cache_dir else default_folder()
    (folder / "index").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(4 * _THREADS) as pool:
        stats = list(pool.map(lambda url: _stat(url, settings), urls))
    identity = json.dumps([_VERSION, dataset, split, list(zip(urls, stats, strict=True))])
    path = folder / "index" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.json"
    with locked(path.with_suffix(".lock")):  # one process reads the shards, the others wait for what it finds
        if path.is_file():
            return _named(Manifest.from_json(read_bytes(path, limits.MANIFEST), str(path)), urls)
        cache = ShardCache(folder / "shards", int(settings.cache_gb * 1e9), settings.timeout_s, Traffic())
        manifest = _index_all(urls, stats, dataset, split, cache)
        # Under plain names: a manifest on the disk never says where else to read. The URLs are in the file's name.
        write_bytes(path, _named(manifest, [f"{k:06d}.tar" for k in range(len(urls))]).to_json().encode())
    return manifest


def same_classes(first: Manifest, second: Manifest) -> tuple[Manifest, Manifest]:
    """Both with the class names of the one that has more: an index knows only the classes that occur."""
    classes = max(first.classes, second.classes, key=len)
    return replace(first, classes=classes), replace(second, classes=classes)


def _named(manifest: Manifest, names: Sequence[str]) -> Manifest:
    shards = tuple(replace(shard, name=name) for shard, name in zip(manifest.shards, names, strict=True))
    return replace(manifest, shards=shards)


def _stat(url: str, settings: ReadSettings) -> Stat:
    if url.startswith(PIPE):
        return Stat(0, "")
    try:
        return storage.stat(url, timeout_s=settings.timeout_s)
    except OSError as error:
        raise UserError(f"data.shards: cannot read {url}: {error}") from error


def _index_all(urls: Sequence[str], stats: Sequence[Stat], dataset: str, split: str, cache: ShardCache) -> Manifest:
    parts: list[_Indexed] = []
    with ThreadPoolExecutor(_THREADS) as pool, Progress(f"indexing {dataset} {split}", len(urls)) as progress:
        for part in pool.map(lambda k: _index_shard(k, urls[k], stats[k], cache), range(len(urls))):
            parts.append(part)
            progress.advance()
    samples = _numbered([sample for part in parts for sample in part.samples])
    kinds = {kind for part in parts for kind in part.kinds}
    for what, pairs in (("samples", [p.left_out for p in parts]), ("files", [p.strays for p in parts])):
        if left_out := [pair for part in pairs for pair in part]:
            causes = ", ".join(f"{n} {cause}" for cause, n in Counter(cause for _, cause in left_out).most_common())
            names = ", ".join(key for key, _ in left_out[:5])
            say(f"{dataset} {split}: {len(left_out)} {what} are left out ({causes}): {names}", error=True)
    if len(kinds) != 1:
        found = "both one label a sample and several" if kinds else "no usable sample"
        raise UserError(f"data.shards: the {split} shards hold {found}; see data/README.md for what is read")
    highest = max((label for sample in samples for label, _, _ in sample.labels), default=0)
    classes = tuple(str(k) for k in range(highest + 1))
    return Manifest(dataset, split, kinds.pop(), classes, {}, tuple(part.shard for part in parts), tuple(samples))


def _numbered(samples: list[Sample]) -> list[Sample]:
    """The samples with keys of their own: one that comes again, in a shard or in one of its name, gets a number."""
    counts: Counter[str] = Counter()
    taken = {sample.key for sample in samples}
    named = []
    for sample in samples:
        counts[sample.key] += 1
        key, number = sample.key, counts[sample.key]
        while number > 1 and key in taken:
            key, number = f"{sample.key}-{number}", number + 1
        taken.add(key)
        named.append(replace(sample, key=key))
    return named


def _index_shard(k: int, url: str, stat: Stat, cache: ShardCache) -> _Indexed:
    size = stat.size
    try:
        if url.startswith(PIPE) or not _knows_ranges(url, size, cache):
            place = str(cache.path(url, None if url.startswith(PIPE) else size))
            size = storage.stat(place).size
        else:
            place = url
        pieces = _Pieces(place, size, cache.timeout_s)
        strays: list[tuple[str, str]] = []
        samples, kinds, left_out = _samples(k, url, pieces, strays)
        if pieces.more():
            strays.append((url, "tar after the first"))
        return _Indexed(Shard(url, len(samples), size, pieces.sha256()), samples, kinds, left_out, strays)
    except (TarError, OSError, EOFError) as error:
        raise UserError(f"data.shards: {url} cannot be indexed: {error}") from error


def _samples(
    k: int, url: str, pieces: "_Pieces", strays: list[tuple[str, str]]
) -> tuple[list[Sample], set[str], list[tuple[str, str]]]:
    stem = url.split("?")[0].rstrip(" -").rsplit("/", 1)[-1].removesuffix(".tar")
    samples, kinds, left_out = [], set(), []
    for key, members in _groups(pieces.read, pieces.size, strays):
        name, start, end = f"{stem}/{key}", members[0].start, members[-1].end
        try:
            if end - start > limits.SAMPLE.most:
                raise LeftOut("too large")
            data = pieces.read(start, end - start)
            files = {split_name(m.name)[1]: data[m.offset - start : m.offset - start + m.size] for m in members}
            if len(files) < len(members):
                raise LeftOut("with a file twice")
            info = _probe(files)
            kind, labels = _labels(files, info)
            place = (name, k, start, end - start, zlib.crc32(data))
            samples.append(Sample(*place, info.frames, info.fps, info.width, info.height, labels, info.table))
            kinds.add(kind)
        except LeftOut as error:
            left_out.append((name, str(error)))
        pieces.drop_before(end)
    return samples, kinds, left_out


def _groups(
    read: Callable[[int, int], bytes], size: int, strays: list[tuple[str, str]]
) -> Iterator[tuple[str, list[Member]]]:
    """Runs of members with one key, as WebDataset makes them; `strays` gets (name, why) of what is in none."""
    key, members = "", list[Member]()
    for member in walk(read, size, link=lambda name: strays.append((name, "link"))):
        own, _ = split_name(member.name)
        if not own:
            hidden = member.name.rpartition("/")[2].startswith(".")
            strays.append((member.name, "hidden" if hidden else "without key and suffix"))
            continue
        if members and own != key:
            yield key, members
            members = []
        key = own
        members.append(member)
    if members:
        yield key, members


def _probe(files: dict[str, bytes]) -> VideoInfo:
    videos = [suffix for suffix in files if suffix in VIDEO_MEMBERS]
    if len(videos) != 1:
        raise LeftOut("without a video" if not videos else "with several videos")
    try:
        return probe(files[videos[0]])
    except VideoError as error:
        raise LeftOut(error.cause) from error


def _labels(files: dict[str, bytes], info: VideoInfo) -> tuple[str, Labels]:
    """(task, labels) from `cls` or `json`; a class without times holds for the whole video."""
    try:
        if "cls" in files:
            return "multiclass", ((_class(int(files["cls"])), 0.0, info.times.end),)
        content = parse_json(files["json"], "") if len(files["json"]) <= 1 << 20 else {}
        if "label" in content:
            return "multiclass", ((_class(content["label"]), 0.0, info.times.end),)
        rows = [row if isinstance(row, list) else [row, 0.0, info.times.end] for row in content["labels"]]
        return "multilabel", tuple((_class(c), float(start), float(end)) for c, start, end in rows)
    except (UserError, KeyError, ValueError, TypeError):
        raise LeftOut("without a label") from None


def _class(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limits.CLASSES.most:
        raise ValueError(value)
    return value


def _knows_ranges(url: str, size: int, cache: ShardCache) -> bool:
    try:
        storage.read_range(url, 0, min(size, 1), timeout_s=cache.timeout_s)
    except RangesUnsupported:
        return False
    return True


class _Pieces:
    """A shard from front to back in pieces: each is read once, hashed, and held as long as it is needed."""

    def __init__(self, url: str, size: int, timeout_s: float) -> None:
        self.url, self.size, self.timeout_s = url, size, timeout_s
        self._held: dict[int, bytes] = {}
        self._next = self._end = 0
        self._digest = hashlib.sha256()

    def read(self, offset: int, length: int) -> bytes:
        first, last = offset // PIECE, (offset + length - 1) // PIECE
        while self._next <= last:
            self._load()
        joined = b"".join(self._held[k] for k in range(first, last + 1))
        self._end = max(self._end, offset + length)
        return joined[offset - first * PIECE : offset - first * PIECE + length]

    def drop_before(self, offset: int) -> None:
        """Bytes before `offset` are not needed again."""
        self._held = {k: data for k, data in self._held.items() if k >= offset // PIECE}

    def more(self) -> bool:
        """Whether anything but zeros comes after what was read."""
        while self._next * PIECE < self.size:
            if any(data.strip(b"\0") for data in self._after()):
                return True
            self._held = {}
            self._load()
        return any(data.strip(b"\0") for data in self._after())

    def sha256(self) -> str:
        """Of the whole shard."""
        while self._next * PIECE < self.size:
            self._held = {}
            self._load()
        return self._digest.hexdigest()

    def _after(self) -> Iterator[bytes]:
        """What is held of the bytes after the last that were read."""
        return (data[max(0, self._end - k * PIECE) :] for k, data in self._held.items())

    def _load(self) -> None:
        at = self._next * PIECE
        data = storage.read_range(self.url, at, min(PIECE, self.size - at), timeout_s=self.timeout_s)
        self._digest.update(data)
        self._held[self._next] = data
        self._next += 1
