"""Holds shards against their manifests: every byte is read, a share of the videos is decoded."""

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nlnet.data import coco_lint, storage
from nlnet.data.coco_check import Problem
from nlnet.data.coco_folder import is_plain
from nlnet.data.images import ImageError
from nlnet.data.manifest import Manifest, Sample
from nlnet.data.progress import Meter
from nlnet.data.source import DEFAULTS, ShardSource
from nlnet.data.tar import TarError, sample_members, split_name, walk
from nlnet.data.video import VideoError, count_frames, decode_clip, probe
from nlnet.errors import UserError

_PIECE = 1 << 24
_VIDEOS = ("mp4", "webm", "mkv", "mov", "avi")
_IMAGES = ("jpg", "jpeg", "png")
_MANIFEST = "-manifest.json"


class Finding(NamedTuple):
    """Something that is wrong: the shard or the sample, the cause to count by, and what was found."""

    where: str
    cause: str
    detail: str


class Picture(NamedTuple):
    """The middle frame of a video (H, W, 3) uint8."""

    key: str
    split: str
    labels: list[str]
    frames: int
    image: np.ndarray


@dataclass
class Report:
    """What was read, and what was found.

    `short` are (split, key, frames) of videos with fewer frames than a clip spans, which training repeats cyclically;
    they are no fault. `labels` counts, for each split, the samples of every class.
    """

    root: str
    span: int
    manifests: list[Manifest] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    short: list[tuple[str, str, int]] = field(default_factory=list)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    bytes: int = 0
    samples: int = 0
    decoded: int = 0


@dataclass(frozen=True)
class Options:
    """How to check.

    Args:
        decode: share of the videos that are decoded whole.
        span: frames below which a video is short.
        pictures: how many middle frames to keep of each split.
        workers: shards read at a time.
        duplicates: whether equal videos are allowed.
    """

    decode: float = 0.1
    span: int = 64
    pictures: int = 0
    workers: int = 2
    duplicates: bool = False


@dataclass
class _Checked:
    """What one shard gave; `contents` are (SHA-256 of a video, split/key)."""

    findings: list[Finding] = field(default_factory=list)
    contents: list[tuple[bytes, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    bytes: int = 0
    decoded: int = 0


def lint(shards: str, options: Options = Options()) -> Report:
    """Checks the shards of every manifest in a folder or prefix, or of the one manifest that `shards` names; or the
    annotations in a folder of COCO's own files.

    What is wrong with the shards is in the report.
    Raises UserError where there is no manifest, or one that cannot be read.
    """
    if is_plain(shards):
        return Report(shards, options.span, findings=list(map(_finding, coco_lint.check_folder(Path(shards)))))
    root, names = find_manifests(shards)
    report = Report(root, options.span)
    contents: dict[bytes, list[str]] = {}
    for name in names:
        manifest = _manifest(root, name)
        report.manifests.append(manifest)
        source = ShardSource(root, manifest.shards, DEFAULTS)
        wanted = _wanted_pictures(manifest, options.pictures)
        truth: coco_lint.Truth | None = None
        if manifest.task == "detection":
            truth, problems = coco_lint.check_truth(manifest, root)
            report.findings += map(_finding, problems)
        count = len(manifest.shards)
        with ThreadPoolExecutor(options.workers) as pool, Meter(f"{manifest.split} shards", count) as meter:
            jobs = [pool.submit(_shard, manifest, i, source, options, wanted, truth) for i in range(count)]
            for job in jobs:
                checked = job.result()
                report.findings += checked.findings
                report.pictures += checked.pictures
                report.bytes += checked.bytes
                report.decoded += checked.decoded
                for digest, where in checked.contents:
                    contents.setdefault(digest, []).append(where)
                meter.advance()
        _describe(manifest, report)
    if not options.duplicates:
        report.findings += [Finding(same[0], "duplicate", _same(same)) for same in contents.values() if len(same) > 1]
    return report


def find_manifests(shards: str) -> tuple[str, list[str]]:
    """The folder or prefix, and the manifests in it. Raises UserError if there are none."""
    if shards.endswith(_MANIFEST):
        root, _, name = shards.rpartition("/")
        return root or ".", [name]
    names = storage.list_folder(shards, _MANIFEST)
    if not names:
        raise UserError(
            f"{shards}: no *{_MANIFEST} here; name the folder or prefix that prepare wrote to, or a manifest"
        )
    return shards, names


def _manifest(root: str, name: str) -> Manifest:
    url = storage.join(root, name)
    try:
        return Manifest.from_json(storage.read_bytes(url).decode(), url)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{url}: cannot be read: {error}") from error


def _describe(manifest: Manifest, report: Report) -> None:
    counts = Counter(dict.fromkeys(manifest.classes, 0))
    for sample in manifest.samples:
        counts.update({manifest.classes[index] for index, _, _ in sample.labels})
        if sample.frames < report.span and manifest.task != "detection":
            report.short.append((manifest.split, sample.key, sample.frames))
    report.labels[manifest.split] = counts
    report.samples += len(manifest.samples)


def _same(where: list[str]) -> str:
    splits = {name.split("/", 1)[0] for name in where}
    leak = ", and in several splits" if len(splits) > 1 else ""
    return f"the same file as {', '.join(where[1:4])}{', ...' if len(where) > 4 else ''}{leak}"


def _wanted_pictures(manifest: Manifest, count: int) -> set[str]:
    keys = sorted((sample.key for sample in manifest.samples), key=_lot)
    return set(keys[:count])


def _lot(key: str) -> float:
    """A number from 0 to 1 that belongs to the key."""
    return zlib.crc32(key.encode()) / 2**32


def _finding(problem: Problem) -> Finding:
    return Finding(*problem)


def _shard(
    manifest: Manifest,
    index: int,
    source: ShardSource,
    options: Options,
    wanted: set[str],
    truth: coco_lint.Truth | None,
) -> _Checked:
    """Reads one shard from its first byte to its last."""
    checked, shard = _Checked(), manifest.shards[index]
    samples = sorted((s for s in manifest.samples if s.shard == index), key=lambda s: s.offset)
    digest, position = hashlib.sha256(), 0
    try:
        size = storage.stat(source.urls[index]).size
        if size != shard.bytes:
            checked.findings.append(Finding(shard.name, "size", f"{size} bytes, the manifest says {shard.bytes}"))
        for sample in samples:
            for piece in _between(source, index, position, sample.offset):
                digest.update(piece)
                _unlisted(piece, shard.name, checked)
            data = source.read(index, sample.offset, sample.length)
            if sample.offset >= position:
                digest.update(data)
            else:
                checked.findings.append(Finding(f"{manifest.split}/{sample.key}", "overlap", "its range began before"))
            position = max(position, sample.offset + sample.length)
            _sample(manifest, sample, data, options, wanted, checked, truth)
        for piece in _between(source, index, position, max(size, position)):
            digest.update(piece)
            _unlisted(piece, shard.name, checked)
        checked.bytes = max(size, position)
        if digest.hexdigest() != shard.sha256:
            checked.findings.append(Finding(shard.name, "checksum", "its SHA-256 is not the manifest's"))
    except (OSError, EOFError) as error:
        checked.findings.append(Finding(shard.name, "unreadable", str(error)))
    return checked


def _between(source: ShardSource, index: int, begin: int, end: int) -> Iterator[bytes]:
    for offset in range(begin, end, _PIECE):
        yield source.read(index, offset, min(_PIECE, end - offset))


def _unlisted(piece: bytes, shard: str, checked: _Checked) -> None:
    # A tar ends in zeros; anything else outside the samples is a file that the manifest does not know.
    if piece.strip(b"\0") and not any(found.where == shard and found.cause == "unlisted" for found in checked.findings):
        checked.findings.append(Finding(shard, "unlisted", "it holds files that the manifest does not list"))


def _sample(
    manifest: Manifest,
    sample: Sample,
    data: bytes,
    options: Options,
    wanted: set[str],
    checked: _Checked,
    truth: coco_lint.Truth | None,
) -> None:
    where = f"{manifest.split}/{sample.key}"
    if zlib.crc32(data) != sample.crc32:
        checked.findings.append(Finding(where, "checksum", "its CRC32 is not the manifest's"))
        return
    try:
        images = manifest.task == "detection"
        media, description = _members(sample, data, _IMAGES if images else _VIDEOS)
        checked.contents.append((hashlib.sha256(media).digest(), where))
        if images:
            checked.findings += map(_finding, coco_lint.check_records(manifest, sample, description, truth))
        if _lot(sample.key) < options.decode:
            checked.decoded += 1
            (coco_lint.pixels if images else _decode)(sample, media)
        if sample.key in wanted:
            image = coco_lint.pixels(sample, media) if images else decode_clip(media, [sample.frames // 2])[0]
            names = sorted({manifest.classes[index] for index, _, _ in sample.labels})
            checked.pictures.append(Picture(sample.key, manifest.split, names, sample.frames, image))
    except (VideoError, ImageError) as error:
        checked.findings.append(Finding(where, error.cause, str(error)))
    except (TarError, IndexError) as error:
        checked.findings.append(Finding(where, "malformed", str(error)))


def _members(sample: Sample, data: bytes, suffixes: tuple[str, ...]) -> tuple[bytes, bytes]:
    """The one video or image among a sample's files, and its description, which agrees with the manifest."""
    for file in walk(lambda offset, length: data[offset : offset + length], len(data), marked=False):
        key = split_name(file.name)[0]
        if key != sample.key:
            raise VideoError("malformed", f"a file of another sample, {key!r:.80}")
    members = sample_members(data, (*suffixes, "json"))
    description = members.pop("json", b"{}")
    if len(members) != 1:
        raise VideoError("malformed", f"{len(members)} of {', '.join(suffixes)} in one sample")
    try:
        told = json.loads(description)
    except ValueError:
        raise VideoError("malformed", "its .json is not JSON") from None
    for name in ("key", "frames", "width", "height"):
        if isinstance(told, dict) and told.get(name, getattr(sample, name)) != getattr(sample, name):
            raise VideoError("mismatch", f"{name} is {told[name]!r:.80} in its .json, the manifest differs")
    return next(iter(members.values())), description


def _decode(sample: Sample, video: bytes) -> None:
    info = probe(video)
    found, listed = (info.frames, info.width, info.height), (sample.frames, sample.width, sample.height)
    if found != listed:
        raise VideoError("mismatch", f"frames, width, height are {found}, the manifest says {listed}")
    if (decoded := count_frames(video)) != sample.frames:
        raise VideoError("undecodable", f"{decoded} of {sample.frames} frames can be decoded")
