"""Regions of all videos of prepared shards, stored beside them.

The work is kept by shard, as `nlnet.data.prepare.run` does: a shard is done when its file and the record of it in
`.parts` are there. A run that was interrupted makes the others when it is started again, several machines make a part
each, and the manifest of a split comes last.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from nlnet import limits
from nlnet.data.batches.clips import decode_frames, read_video
from nlnet.data.prepare.output import Bucket, Folder, open_output, writable
from nlnet.data.prepare.settings import part_numbers
from nlnet.data.shards import storage
from nlnet.data.shards.find import MANIFEST
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.reader import SampleError
from nlnet.data.shards.regions.boxes import VideoRegions
from nlnet.data.shards.regions.stored import regions_file, regions_name
from nlnet.data.shards.regions.writer import joined_manifest, pack_shard
from nlnet.errors import UserError
from nlnet.prediction.predict import best_device
from nlnet.prediction.regions.proposals import ProposalNetwork
from nlnet.progress import Progress
from nlnet.reading import parse_json
from nlnet.text import say

_PARTS = ".parts"
_DECODED = 32  # frames at once, of a video that may be long


@dataclass(frozen=True)
class RegionSettings:
    """What is asked for; configs/regions.yaml describes each."""

    shards: str
    weights: str
    out: str
    split: str | None = None
    rate: float = 4.0
    top: int = 50
    short_side: int = 800
    frozen_eps: float = 1e-5
    part: str | None = None
    merge: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        _ = self.part_numbers
        for name, (low, high) in {"top": (1, 1000), "short_side": (32, 4096)}.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UserError(f"{name}={value}: expected a whole number from {low} to {high}")
        if type(self.rate) not in (int, float) or not 0 < self.rate <= 1000:
            raise UserError(f"rate={self.rate}: expected frames a second, more than 0")
        if self.part is not None and self.merge:
            raise UserError(f"part={self.part} and merge=true: make all parts first, then merge without part=")

    @property
    def part_numbers(self) -> tuple[int, int]:
        """(i, n) for part "i/n" of the shards."""
        return part_numbers(self.part)


def make_regions(cfg: DictConfig) -> list[str]:
    """Writes the regions of the splits in `cfg.shards`; returns the paths or URLs of their manifests.

    Raises UserError where there are no shards or no weights, where the output holds regions made differently, and for
    `merge` where some are still to be made.
    """
    asked = RegionSettings(**{str(name): value for name, value in cfg.items() if name != "hydra"})
    manifests = _manifests(asked)
    network = ProposalNetwork(
        asked.weights,
        top=asked.top,
        short_side=asked.short_side,
        frozen_eps=asked.frozen_eps,
        device=torch.device(asked.device or best_device()),
    )
    number, count = asked.part_numbers
    with writable(asked.out):
        output = open_output(asked.out)
        with output.alone(number, count):
            written = [_of_split(asked, manifest, network, output) for manifest in manifests]
    return [path for path in written if path]


def _manifests(asked: RegionSettings) -> list[Manifest]:
    try:
        urls = [storage.join(asked.shards, name) for name in storage.list_folder(asked.shards, MANIFEST)]
        found = [Manifest.from_json(storage.read_bytes(url, limits.MANIFEST), url) for url in urls]
    except OSError as error:
        raise UserError(f"shards={asked.shards}: cannot be read: {error}") from error
    videos = [manifest for manifest in found if manifest.task != "detection"]
    if not videos:
        raise UserError(f"shards={asked.shards}: no shards of videos here; make them with python src/prepare.py")
    chosen = [manifest for manifest in videos if asked.split in (None, manifest.split)]
    if not chosen:
        raise UserError(f"split={asked.split}: {asked.shards} has {', '.join(sorted(m.split for m in videos))}")
    return chosen


def _of_split(
    asked: RegionSettings, manifest: Manifest, network: ProposalNetwork, output: Folder | Bucket
) -> str | None:
    """The regions of one split, its manifest too unless others make a part of them."""
    made = {"weights": network.identity, "rate": asked.rate, "top": asked.top, "short_side": asked.short_side}
    plan = {"made": made, "samples": manifest.columns.digest()}
    _check_plan(asked, manifest, plan, output)
    number, count = asked.part_numbers
    mine = range(number - 1, len(manifest.shards), count)
    missing = [shard for shard in mine if _record(output, manifest, shard) is None]
    name = f"{manifest.dataset} {manifest.split}"
    if asked.merge and missing:
        raise UserError(
            f"out={asked.out}: the regions of {len(missing):,} of {len(mine):,} shards of {name} are still to be made;"
            " run the parts that are missing, or this command without merge=true, which makes them"
        )
    with Progress(f"{name} videos", sum(manifest.shards[shard].samples for shard in missing)) as progress:
        for shard in missing:
            _make_shard(asked, manifest, shard, network, output, progress)
    if count > 1:
        say(f"part {asked.part} of {name}: {len(mine):,} of {len(manifest.shards):,} shards; merge=true ends it")
        return None
    records = [_record(output, manifest, shard) for shard in range(len(manifest.shards))]
    rows = [(*record["file"], record["videos"]) for record in records if record]
    target = regions_name(manifest.dataset, manifest.split)
    output.write(target, joined_manifest(manifest, rows, made).to_json().encode())
    failed = [key for record in records if record for key in record["failed"]]
    skipped = f"; {len(failed):,} could not be read, the first {failed[0]}: whole frames" if failed else ""
    say(f"{name}: regions of {len(manifest.samples):,} videos{skipped}")
    return storage.join(asked.out, target)


def _check_plan(asked: RegionSettings, manifest: Manifest, plan: dict[str, Any], output: Folder | Bucket) -> None:
    name = f"{_PARTS}/{regions_name(manifest.dataset, manifest.split)}"
    before = output.read(name)
    if before is None:
        output.write(name, json.dumps(plan).encode())
    elif (theirs := parse_json(before, f"{asked.out}/{name}")) != plan:
        old, new = theirs["made"], plan["made"]
        changed = [f"{key}={old.get(key)} then, {new[key]} now" for key in new if old.get(key) != new[key]]
        raise UserError(
            f"out={asked.out} holds regions made differently ({', '.join(changed) or 'the shards are others'});"
            f" choose another folder with out=, or delete {name} and the .regions files"
        )


def _make_shard(
    asked: RegionSettings,
    manifest: Manifest,
    shard: int,
    network: ProposalNetwork,
    output: Folder | Bucket,
    progress: Progress,
) -> None:
    failed: list[str] = []

    def videos(samples: Sequence[Sample]) -> Iterator[tuple[Sample, VideoRegions]]:
        for sample in samples:
            try:
                yield sample, _of_video(asked, manifest, sample, network)
            except (SampleError, OSError, EOFError):
                failed.append(sample.key)
                yield sample, VideoRegions.of({})
            progress.advance()

    where = np.flatnonzero(manifest.columns.number("shard") == shard)
    packed = pack_shard(videos([manifest.samples[int(k)] for k in where]))
    name = regions_file(manifest.shards[shard].name)
    output.write(name, packed.data)
    record = {"file": [name, len(packed.data), packed.sha256], "videos": packed.videos, "failed": failed}
    output.write(f"{_PARTS}/{name}.json", json.dumps(record).encode())


def _of_video(asked: RegionSettings, manifest: Manifest, sample: Sample, network: ProposalNetwork) -> VideoRegions:
    every = max(1, round(sample.fps / asked.rate))
    data, parts = read_video(manifest, asked.shards, sample), []
    for first in range(0, sample.frames, every * _DECODED):
        numbers = np.arange(first, min(first + every * _DECODED, sample.frames), every)
        parts.append(network.regions(numbers, decode_frames(sample, data, numbers, None, "pyav")))
    return VideoRegions.joined(parts)


def _record(output: Folder | Bucket, manifest: Manifest, shard: int) -> Any:
    """What is known of a finished shard, None where it is to be made."""
    name = regions_file(manifest.shards[shard].name)
    before = output.read(f"{_PARTS}/{name}.json")
    record = None if before is None else parse_json(before, name)
    return record if record and output.size(name) == record["file"][1] else None
