"""Writing regions: the file of one shard, and the manifest of a split."""

import hashlib
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.regions.boxes import VideoRegions
from nlnet.data.shards.regions.stored import RegionManifest, regions_file, regions_name
from nlnet.saving import write_bytes


class ShardRegions(NamedTuple):
    """The regions of a shard's videos: the file's bytes, and by key (offset, length, CRC32, CRC32 of the sample)."""

    data: bytes
    videos: dict[str, tuple[int, int, int, int]]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def pack_shard(videos: Iterable[tuple[Sample, VideoRegions]]) -> ShardRegions:
    """The regions of videos of one shard, one after the other."""
    parts, rows, offset = list[bytes](), dict[str, tuple[int, int, int, int]](), 0
    for sample, regions in videos:
        part = regions.pack()
        rows[sample.key] = (offset, len(part), zlib.crc32(part), sample.crc32)
        parts.append(part)
        offset += len(part)
    return ShardRegions(b"".join(parts), rows)


def joined_manifest(
    manifest: Manifest, shards: Iterable[tuple[str, int, str, dict[str, Any]]], made: dict[str, Any]
) -> RegionManifest:
    """The manifest of a split's regions, from (name, bytes, SHA-256, rows by key) of each file."""
    files, videos = list[tuple[str, int, str]](), dict[str, Any]()
    for name, size, sha256, rows in shards:
        videos |= {key: (len(files), *row) for key, row in rows.items()}
        files.append((name, size, sha256))
    return RegionManifest(manifest.dataset, manifest.split, tuple(files), videos, made)


def write_regions(folder: Path, manifest: Manifest, regions_of: Callable[[Sample], VideoRegions]) -> None:
    """Writes the regions of a split whose are known into `folder`, beside its shards."""
    shards = []
    for number, shard in enumerate(manifest.shards):
        samples = [sample for sample in manifest.samples if sample.shard == number]
        packed = pack_shard((sample, regions_of(sample)) for sample in samples)
        name = regions_file(shard.name)
        write_bytes(folder / name, packed.data)
        shards.append((name, len(packed.data), packed.sha256, packed.videos))
    text = joined_manifest(manifest, shards, {}).to_json()
    write_bytes(folder / regions_name(manifest.dataset, manifest.split), text.encode())
