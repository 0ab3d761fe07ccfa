"""Holds one shard against its manifest: every byte is read, a fraction of the samples is decoded."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from nlnet import limits
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.images import ImageError
from nlnet.data.media.pyav import check_frames
from nlnet.data.media.suffixes import IMAGE_MEMBERS, VIDEO_MEMBERS
from nlnet.data.media.times import Times
from nlnet.data.media.video import VideoError, probe
from nlnet.data.shards import storage
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.source import DEFAULTS, ShardSource
from nlnet.data.shards.tar import TarError, sample_members, split_name, walk
from nlnet.data.verify.coco import GroundTruth, check_records, pixels
from nlnet.data.verify.report import Finding, Options, Thumbnail
from nlnet.errors import UserError
from nlnet.reading import parse_json

_PIECE = 1 << 24
_TICK_S = 0.0015  # containers that count in milliseconds round times, and manifests of earlier versions did not say so


@dataclass
class Checked:
    """What one shard gave; `contents` are (SHA-256 of a video or image, split/key)."""

    findings: list[Finding] = field(default_factory=list)
    contents: list[tuple[bytes, str]] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)
    bytes: int = 0
    decoded: int = 0


class ShardCheck:
    """Checks the shards of one manifest; `ground_truth` are the annotations beside it, for images."""

    def __init__(self, manifest: Manifest, root: str, options: Options, ground_truth: GroundTruth | None) -> None:
        self.manifest, self.options, self.ground_truth = manifest, options, ground_truth
        self.source = ShardSource(root, manifest.shards, DEFAULTS)
        self.images = manifest.task == "detection"
        by_lot = sorted((sample.key for sample in manifest.samples), key=_lot)
        self.shown = set(by_lot[: options.thumbnails])

    def __call__(self, index: int) -> Checked:
        """Reads a shard from its first byte to its last."""
        checked, shard = Checked(), self.manifest.shards[index]
        try:
            size = storage.stat(self.source.urls[index]).size
            if size != shard.bytes:
                checked.findings.append(Finding(shard.name, "size", f"{size} bytes, the manifest says {shard.bytes}"))
            if self._read(index, size, checked) != shard.sha256:
                checked.findings.append(Finding(shard.name, "checksum", "its SHA-256 is not the manifest's"))
        except (OSError, EOFError) as error:
            checked.findings.append(Finding(shard.name, "unreadable", str(error)))
        return checked

    def _read(self, index: int, size: int, checked: Checked) -> str:
        """Goes through the samples of a shard and what lies between them; its SHA-256."""
        samples = sorted((s for s in self.manifest.samples if s.shard == index), key=lambda s: s.offset)
        digest, position = hashlib.sha256(), 0
        for sample in samples:
            self._skip(index, position, sample.offset, digest, checked)
            if sample.length > limits.SAMPLE.most:
                excess = str(limits.SAMPLE.excess(amount=sample.length))
                checked.findings.append(Finding(f"{self.manifest.split}/{sample.key}", "too large", excess))
                continue
            data = self.source.read(index, sample.offset, sample.length)
            if sample.offset >= position:
                digest.update(data)
            else:
                where = f"{self.manifest.split}/{sample.key}"
                checked.findings.append(Finding(where, "overlap", "its range began before"))
            position = max(position, sample.offset + sample.length)
            self._check_sample(sample, data, checked)
        self._skip(index, position, max(size, position), digest, checked)
        checked.bytes = max(size, position)
        return digest.hexdigest()

    def _skip(self, index: int, begin: int, end: int, digest: "hashlib._Hash", checked: Checked) -> None:
        """Reads what lies outside of the samples: a tar ends in zeros, and anything else is an unlisted file."""
        shard = self.manifest.shards[index].name
        for piece in self._pieces(index, begin, end):
            digest.update(piece)
            known = any(found.where == shard and found.cause == "unlisted" for found in checked.findings)
            if piece.strip(b"\0") and not known:
                checked.findings.append(Finding(shard, "unlisted", "it holds files that the manifest does not list"))

    def _pieces(self, index: int, begin: int, end: int) -> Iterator[bytes]:
        for offset in range(begin, end, _PIECE):
            yield self.source.read(index, offset, min(_PIECE, end - offset))

    def _check_sample(self, sample: Sample, data: bytes, checked: Checked) -> None:
        where = f"{self.manifest.split}/{sample.key}"
        if zlib.crc32(data) != sample.crc32:
            checked.findings.append(Finding(where, "checksum", "its CRC32 is not the manifest's"))
            return
        try:
            media, description = _members(sample, data, IMAGE_MEMBERS if self.images else VIDEO_MEMBERS)
            checked.contents.append((hashlib.sha256(media).digest(), where))
            if self.images:
                problems = check_records(self.manifest, sample, description, self.ground_truth)
                checked.findings += (Finding(*problem) for problem in problems)
            if _lot(sample.key) < self.options.decode:
                checked.decoded += 1
                (pixels if self.images else _decode)(sample, media)
            if sample.key in self.shown:
                checked.thumbnails.append(self._thumbnail(sample, media))
        except (VideoError, ImageError) as error:
            checked.findings.append(Finding(where, error.cause, str(error)))
        except (TarError, IndexError) as error:
            checked.findings.append(Finding(where, "malformed", str(error)))

    def _thumbnail(self, sample: Sample, media: bytes) -> Thumbnail:
        image = pixels(sample, media) if self.images else decode_clip(media, [sample.frames // 2])[0]
        names = sorted({self.manifest.classes[index] for index, _, _ in sample.labels})
        return Thumbnail(sample.key, self.manifest.split, names, sample.frames, image)


def _lot(key: str) -> float:
    """A number from 0 to 1 that belongs to the key."""
    return zlib.crc32(key.encode(errors="surrogatepass")) / 2**32


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
        told = parse_json(description, "")
    except UserError:
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
    if (decoded := check_frames(video)) != sample.frames:
        raise VideoError("undecodable", f"{decoded} of {sample.frames} frames can be decoded")
    if (apart := _apart(sample.times, info.times)) > _TICK_S:
        where = f"frames are up to {apart:.3f} s from where the manifest says they are"
        raise VideoError("mismatch", f"{where}; prepare the video again")


def _apart(listed: Times, found: Times) -> float:
    """The most seconds between where the same frame is, seen from the first one: a prepared file begins at 0."""
    frames = np.arange(found.frames)
    one, other = (times.seconds(frames) - times.seconds(0) for times in (listed, found))
    return float(np.abs(one - other).max())
