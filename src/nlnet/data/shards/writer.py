"""Writes WebDataset shards: `key.json` and the media file side by side in a tar, with the byte range of each sample."""

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webdataset import TarWriter

from nlnet.data.annotations.records import Labels
from nlnet.data.media.video import VideoInfo
from nlnet.data.shards.manifest import Sample, Shard
from nlnet.saving import publish

# WebDataset cuts a member's name at the first dot: a dot in a key would join two samples into one.
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")


@dataclass(slots=True)
class RawSample:
    """A sample on its way into a shard: `video` is the encoded file, `labels` are (class index, start s, end s).

    `suffix` is the kind of file, which may be an image; `notes` are further entries of the sample's JSON.
    """

    key: str
    video: bytes
    info: VideoInfo
    labels: Labels
    suffix: str = "mp4"
    notes: Mapping[str, Any] = field(default_factory=dict)


def write_shard(path: Path, index: int, samples: Iterable[RawSample]) -> tuple[Shard, list[Sample]]:
    """Writes `samples` to the tar `path` and says where each lies; `index` is the shard's place in the manifest.

    The same samples give the same bytes. The name appears only when the tar is whole.
    Raises ValueError for a key that occurs twice or has other characters than letters, digits, "_" and "-".
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file, TarWriter(file, encoder=False, mtime=0, user="", group="") as writer:
            rows = _write_members(writer, samples)
        shard, written = _account(temporary, path.name, index, rows)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return shard, written


# A sample without its bytes, and the length of its range: a shard's videos are never all in memory.
_Row = tuple[str, VideoInfo, Labels, int]


def _write_members(writer: TarWriter, samples: Iterable[RawSample]) -> list[_Row]:
    rows: list[_Row] = []
    keys: set[str] = set()
    for sample in samples:
        if not _KEY.fullmatch(sample.key) or sample.key in keys:
            raise ValueError(f"the key {sample.key!r} is not new or not made of 1 to 90 letters, digits, '_' and '-'")
        keys.add(sample.key)
        # The tar is written as a stream of 10 KiB records, so the file's own tell() lags behind.
        begin = writer.tarstream.offset
        writer.write({"__key__": sample.key, "json": _describe(sample), sample.suffix: sample.video})
        rows.append((sample.key, sample.info, sample.labels, writer.tarstream.offset - begin))
    return rows


def _describe(sample: RawSample) -> bytes:
    info = sample.info
    content = {
        "key": sample.key,
        "labels": sample.labels,
        "frames": info.frames,
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        **({"times": info.table} if info.table else {}),
        **sample.notes,
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _account(tar: Path, name: str, index: int, rows: list[_Row]) -> tuple[Shard, list[Sample]]:
    """Reads the tar once more: the checksums are of what is on the disk."""
    digest, offset, samples = hashlib.sha256(), 0, []
    with open(tar, "rb") as file:
        for key, info, labels, length in rows:
            data = file.read(length)
            digest.update(data)
            samples.append(
                Sample(
                    key=key,
                    shard=index,
                    offset=offset,
                    length=length,
                    crc32=zlib.crc32(data),
                    frames=info.frames,
                    fps=info.fps,
                    width=info.width,
                    height=info.height,
                    labels=labels,
                    table=info.table,
                )
            )
            offset += length
        digest.update(file.read())
        size = file.tell()
    return Shard(name=name, samples=len(samples), bytes=size, sha256=digest.hexdigest()), samples
