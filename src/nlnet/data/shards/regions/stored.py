"""Regions as they are stored beside the shards: a file for each shard, and a manifest for each split.

The manifest names the place of each video's regions and, so that they are never taken for those of another, the
checksum that its sample has in the shards.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nlnet import limits
from nlnet.data.shards import storage
from nlnet.data.shards.fields import row, typed
from nlnet.data.shards.manifest import Sample
from nlnet.data.shards.regions.boxes import VideoRegions, unpack
from nlnet.errors import UserError
from nlnet.reading import parse_json

FORMAT = 1
_SUFFIX = "-regions.json"
_FILE: dict[str, type] = {"name": str, "bytes": int, "sha256": str}
_VIDEO: dict[str, type] = {"file": int, "offset": int, "length": int, "crc32": int, "sample": int}
_HOW = "python src/regions.py shards=FOLDER makes them"


def regions_name(dataset: str, split: str) -> str:
    """The manifest's file name, such as "charades-train-regions.json"."""
    return f"{dataset}-{split}{_SUFFIX}"


def regions_file(shard: str) -> str:
    """The name of the file with the regions of a shard's videos."""
    return f"{shard.removesuffix('.tar')}.regions"


@dataclass(frozen=True)
class RegionManifest:
    """Where the regions of a split's videos are.

    `files` are (name, bytes, SHA-256 in hex); `videos` by key (file, offset, length and CRC32 of its bytes, CRC32 of
    the sample in the shards); `made` says how, in plain values.
    """

    dataset: str
    split: str
    files: tuple[tuple[str, int, str], ...]
    videos: Mapping[str, tuple[int, int, int, int, int]]
    made: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest as text, one video a line."""
        head = {"format": FORMAT, "dataset": self.dataset, "split": self.split, "made": self.made, "files": self.files}
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        rows = (f"{json.dumps(key)}:{json.dumps(video, separators=(',', ':'))}" for key, video in self.videos.items())
        return "{\n" + ",\n".join([*lines, '"videos": {\n' + ",\n".join(rows) + "\n}"]) + "\n}\n"

    @staticmethod
    def from_json(text: bytes, where: str) -> "RegionManifest":
        """The manifest that `to_json` wrote. Raises UserError for other text, with its place `where`."""
        try:
            content = parse_json(text, "")
            if (version := content["format"]) != FORMAT:
                raise ValueError(f"format {version!r:.80}, but this version of nlnet reads {FORMAT}")
            listed, places = typed(content["files"], list, "files"), typed(content["videos"], dict, "videos")
            files: Any = tuple(row(file, _FILE, f"file {k}") for k, file in enumerate(listed))
            videos: Any = {key: row(video, _VIDEO, key) for key, video in places.items()}
            if any(not 0 <= video[0] < len(files) or min(video) < 0 for video in videos.values()):
                raise ValueError("a video lies in none of its files")
            limits.SAMPLE.check(max((video[2] for video in videos.values()), default=0), where)
            dataset, split = (typed(content[name], str, name) for name in ("dataset", "split"))
            return RegionManifest(dataset, split, files, videos, typed(content["made"], dict, "made"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: not a manifest of regions ({error}); {_HOW} anew") from None


class StoredRegions:
    """The regions of the videos of one or more splits, read from their files one by one."""

    def __init__(self, folder: str, manifests: Iterable[RegionManifest], timeout_s: float = storage.TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._place: dict[str, tuple[str, tuple[int, int, int, int, int]]] = {}
        for manifest in manifests:
            urls = [storage.join(folder, name) for name, _, _ in manifest.files]
            self._place |= {key: (urls[video[0]], video) for key, video in manifest.videos.items()}

    def check(self, samples: Iterable[Sample], where: str) -> None:
        """Raises UserError unless there are regions for each of these samples, made from what it is now."""
        for sample in samples:
            if (found := self._place.get(sample.key)) is None:
                raise UserError(f"{where}: no regions of the video {sample.key}; they are of other data, {_HOW}")
            if found[1][4] != sample.crc32:
                raise UserError(
                    f"{where}: the regions of {sample.key} are of another clip of that name (its checksum is"
                    f" {sample.crc32:08x}, theirs {found[1][4]:08x}); {_HOW} anew"
                )

    def of(self, key: str) -> VideoRegions:
        """Those of the video `key`. Raises OSError where they cannot be read, ValueError where they are damaged."""
        if key not in self._place:
            raise ValueError(f"no regions of the video {key}")
        url, (_, offset, length, crc32, _) = self._place[key]
        data = storage.read_range(url, offset, length, timeout_s=self._timeout_s)
        if zlib.crc32(data) != crc32:
            raise ValueError(f"{url}: the regions of {key} are damaged: their checksum is another")
        return unpack(data)

    def note(self, key: str) -> bytes:
        """What a video's regions are known again by."""
        return np.uint32(self._place[key][1][3]).tobytes()


def all_stored_regions(folder: str) -> StoredRegions:
    """The regions of all splits in a folder or below a URL. Raises UserError where there are none."""
    try:
        urls = [storage.join(folder, name) for name in storage.list_folder(folder, _SUFFIX)]
        manifests = [RegionManifest.from_json(storage.read_bytes(url, limits.MANIFEST), url) for url in urls]
    except OSError as error:
        raise UserError(f"regions={folder}: cannot be read: {error}") from error
    if not manifests:
        raise UserError(f"regions={folder}: no regions in this folder; {_HOW}")
    return StoredRegions(folder, manifests)


def stored_regions(folder: str, dataset: str, splits: Iterable[str]) -> StoredRegions:
    """The regions of these splits in a folder or below a URL. Raises UserError where there are none."""
    manifests = []
    for split in splits:
        url = storage.join(folder, regions_name(dataset, split))
        try:
            manifest = RegionManifest.from_json(storage.read_bytes(url, limits.MANIFEST), url)
        except FileNotFoundError:
            raise UserError(f"data.regions={folder}: no {regions_name(dataset, split)} there; {_HOW}") from None
        except OSError as error:
            raise UserError(f"data.regions={folder}: cannot be read: {error}") from error
        if (manifest.dataset, manifest.split) != (dataset, split):
            raise UserError(f"{url}: it is of {manifest.dataset} {manifest.split}, not of {dataset} {split}; {_HOW}")
        manifests.append(manifest)
    return StoredRegions(folder, manifests)
