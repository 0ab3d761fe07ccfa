"""The manifest: what lies where in a set of shards. One JSON file beside the shards of each split."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from nlnet import limits
from nlnet.data.annotations.records import TASKS, Labels
from nlnet.data.media.times import Times
from nlnet.data.shards.fields import row, time_table, typed
from nlnet.errors import UserError
from nlnet.reading import parse_json
from nlnet.saving import write_bytes

FORMAT = 1
_SHARD = {"name": str, "samples": int, "bytes": int, "sha256": str}
_SAMPLE = {
    **{"key": str, "shard": int, "offset": int, "length": int, "crc32": int},
    **{"frames": int, "fps": float, "width": int, "height": int, "labels": list},
}
_LABEL = {"class": int, "start": float, "end": float}


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file: its name in the manifest's folder, its samples, its size in bytes and its SHA-256 in hex."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip in a shard.

    `shard` is an index into `Manifest.shards`. The byte range [offset, offset + length) of that tar goes from the
    header of the sample's first member to the end of the padding of its last one; `crc32` is of exactly that range.
    `labels` are (class index, start s, end s); a multi-class sample has one entry that spans the clip. An image is one
    frame at one a second, with an entry for each class that it shows. `table` is the table of `times`, on the clock of
    the labels; nothing where frame k is at k / fps.
    """

    key: str
    shard: int
    offset: int
    length: int
    crc32: int
    frames: int
    fps: float
    width: int
    height: int
    labels: Labels
    table: tuple[int, ...] = ()

    @property
    def times(self) -> Times:
        """When each frame is shown."""
        return Times(self.frames, self.fps, self.table)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last: frames / fps."""
        return self.frames / self.fps


@dataclass(frozen=True)
class Manifest:
    """A split of a data set in shards.

    `task` is "multilabel", "multiclass" or "detection". `groups` are named sets of class indices that are reported
    apart. `details` are what else a data set has to say: for detection its categories, in COCO's words; under
    "subsets" named sets of sample indices that are reported apart.
    """

    dataset: str
    split: str
    task: str
    classes: tuple[str, ...]
    groups: dict[str, tuple[int, ...]]
    shards: tuple[Shard, ...]
    samples: tuple[Sample, ...]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def things(self) -> str:
        """What the samples are, for messages."""
        return "images" if self.task == "detection" else "videos"

    @property
    def subsets(self) -> dict[str, tuple[int, ...]]:
        """Named sets of indices into `samples` that are reported apart."""
        return {name: tuple(members) for name, members in self.details.get("subsets", {}).items()}

    def to_json(self) -> str:
        """The manifest as text: always the same for the same content, one sample a line.

        The time tables have an entry of their own, by key, so that one without any is that of earlier versions.
        """
        head = {
            "format": FORMAT,
            "dataset": self.dataset,
            "split": self.split,
            "task": self.task,
            "classes": self.classes,
            "groups": self.groups,
            **({"details": self.details} if self.details else {}),
            "shards": [[shard.name, shard.samples, shard.bytes, shard.sha256] for shard in self.shards],
            "sample": list(_SAMPLE),
        }
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        if tables := [f"{json.dumps(s.key)}:{_compact(s.table)}" for s in self.samples if s.table]:
            lines.append('"times": {\n' + ",\n".join(tables) + "\n}")
        samples = ",\n".join(_compact([getattr(sample, name) for name in _SAMPLE]) for sample in self.samples)
        return "{\n" + ",\n".join([*lines, f'"samples": [\n{samples}\n]']) + "\n}\n"

    @staticmethod
    def from_json(text: str | bytes, where: str) -> "Manifest":
        """The manifest that `to_json` wrote; `where` names its place in messages.

        Raises UserError if the text is not a manifest, is of another format version, or contradicts itself.
        """
        try:
            content = parse_json(text, "")
            version = content["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{where}: not a shard manifest ({_words(error)}); make it again from the shards") from None
        if version != FORMAT:
            raise UserError(f"{where}: manifest format {version!r:.100}, but this version of nlnet reads {FORMAT}")
        try:
            _check_counts(content, where)
            manifest = _parse(content)
            _check(manifest)
        except (ValueError, KeyError) as error:
            raise UserError(f"{where}: malformed manifest ({_words(error)}); make it again from the shards") from None
        return manifest


def manifest_name(dataset: str, split: str) -> str:
    """The manifest's file name, such as "charades-train-manifest.json"."""
    return f"{dataset}-{split}-manifest.json"


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """Several splits of a data set as one, such as "train+test": the samples of the first, then those of the next.

    Raises UserError where their classes differ, or where a sample is in two of them.
    """
    first, *others = manifests
    if not others:
        return first
    where = f"the splits {', '.join(manifest.split for manifest in manifests)} as one"
    for other in others:
        if problem := _unlike(first, other):
            raise UserError(f"{where}: {problem}; prepare them together, from the same list of classes")
    counts = Counter(sample.key for manifest in manifests for sample in manifest.samples)
    if repeated := [key for key, count in counts.items() if count > 1]:
        raise UserError(
            f"{where}: {len(repeated):,} samples are in more than one of them, first {repeated[0]}; name each split"
            " once, and leave repeated samples out of one"
        )
    starts = accumulate((len(manifest.shards) for manifest in manifests), initial=0)
    return replace(
        first,
        split="+".join(manifest.split for manifest in manifests),
        shards=tuple(shard for manifest in manifests for shard in manifest.shards),
        samples=tuple(
            replace(sample, shard=start + sample.shard)
            for start, manifest in zip(starts, manifests, strict=False)
            for sample in manifest.samples
        ),
    )


def _unlike(first: Manifest, other: Manifest) -> str:
    """What two splits of one data set do not have in common; "" for nothing."""
    if len(first.classes) != len(other.classes):
        return f"{first.split} has {len(first.classes)} classes, {other.split} {len(other.classes)}"
    for k, (ours, theirs) in enumerate(zip(first.classes, other.classes, strict=True)):
        if ours != theirs:
            return f"class {k} is {ours} in {first.split}, {theirs} in {other.split}"
    for name in ("task", "groups", "details"):
        if getattr(first, name) != getattr(other, name):
            return f"{first.split} and {other.split} have other {name}"
    return ""


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Writes the manifest into `folder`, whole or not at all, and returns its path."""
    path = folder / manifest_name(manifest.dataset, manifest.split)
    write_bytes(path, manifest.to_json().encode())
    return path


def _parse(content: dict[str, Any]) -> Manifest:
    if content["sample"] != list(_SAMPLE):
        raise ValueError(f"sample fields {str(content['sample'])[:100]}")
    return Manifest(
        dataset=_typed(content, "dataset", str),
        split=_typed(content, "split", str),
        task=_typed(content, "task", str),
        classes=tuple(typed(name, str, f"class {k}") for k, name in enumerate(_typed(content, "classes", list))),
        groups={name: _members(name, members) for name, members in _typed(content, "groups", dict).items()},
        details=_typed(content, "details", dict) if "details" in content else {},
        shards=tuple(Shard(*row(s, _SHARD, f"shard {k}")) for k, s in enumerate(_typed(content, "shards", list))),
        samples=_samples(content),
    )


def _check_counts(content: dict[str, Any], where: str) -> None:
    for name, limit in (("classes", limits.CLASSES), ("shards", limits.SHARDS), ("samples", limits.SAMPLES)):
        limit.check(len(_typed(content, name, list)), where)


def _typed(content: dict[str, Any], name: str, kind: type) -> Any:
    return typed(content[name], kind, repr(name))


def _samples(content: dict[str, Any]) -> tuple[Sample, ...]:
    tables = dict(_typed(content, "times", dict)) if "times" in content else {}
    samples = tuple(_sample(s, k, tables) for k, s in enumerate(_typed(content, "samples", list)))
    if tables:
        raise ValueError(f"times of {min(tables)!r:.80}, which is no sample")
    return samples


def _sample(values: Any, number: int, tables: dict[str, Any]) -> Sample:
    *plain, labels = row(values, _SAMPLE, f"sample {number}")
    checked = tuple(tuple(row(label, _LABEL, f"a label of sample {number}")) for label in labels)
    sample = Sample(*[*plain, checked])
    table = tables.pop(sample.key, None)
    if table is None:
        return sample
    return replace(sample, table=time_table(table, sample.frames, f"times of {sample.key!r:.80}"))


def _members(name: str, members: Any) -> tuple[int, ...]:
    return tuple(typed(k, int, f"a class of group {name!r}") for k in typed(members, list, f"group {name!r}"))


def _check(manifest: Manifest) -> None:
    if manifest.task not in TASKS:
        raise ValueError(f"task {manifest.task!r} is none of {', '.join(TASKS)}")
    classes = range(len(manifest.classes))
    for name, members in manifest.groups.items():
        if not all(member in classes for member in members):
            raise ValueError(f"group {name!r} names a class outside 0..{len(classes) - 1}")
    if manifest.task == "detection":
        _check_details(manifest.details)
    if "subsets" in manifest.details:
        _check_subsets(manifest)
    counts = [0] * len(manifest.shards)
    keys: set[str] = set()
    for sample in manifest.samples:
        if sample.key in keys:
            raise ValueError(f"the key {sample.key!r} occurs twice")
        keys.add(sample.key)
        _check_sample(sample, manifest.shards, classes)
        counts[sample.shard] += 1
    for shard, count in zip(manifest.shards, counts, strict=True):
        if shard.samples != count:
            raise ValueError(f"{shard.name} is said to hold {shard.samples} samples, but {count} are listed")


def _check_details(details: dict[str, Any]) -> None:
    for k, category in enumerate(_typed(details, "categories", list)):
        for name, kind in (("id", int), ("name", str)):
            _typed(typed(category, dict, f"category {k}"), name, kind)
    if "annotations" in details:
        _typed(_typed(details, "annotations", dict), "sha256", str)


def _check_subsets(manifest: Manifest) -> None:
    samples = range(len(manifest.samples))
    for name, members in _typed(manifest.details, "subsets", dict).items():
        for member in typed(members, list, f"subset {name!r}"):
            if typed(member, int, f"a sample of subset {name!r}") not in samples:
                raise ValueError(f"subset {name!r} names a sample outside 0..{len(samples) - 1}")


def _check_sample(sample: Sample, shards: tuple[Shard, ...], classes: range) -> None:
    if not sample.key or not 0 <= sample.crc32 < 1 << 32:
        raise ValueError(f"sample {sample.key!r} has the CRC32 {sample.crc32}, or no key")
    if sample.shard not in range(len(shards)):
        raise ValueError(f"sample {sample.key!r} lies in shard {sample.shard} of {len(shards)}")
    if not 0 <= sample.offset < sample.offset + sample.length <= shards[sample.shard].bytes:
        raise ValueError(f"sample {sample.key!r} lies outside its shard")
    if not 1 <= sample.frames <= limits.FRAMES.most or not (math.isfinite(sample.fps) and sample.fps > 0):
        raise ValueError(f"sample {sample.key!r} has {sample.frames} frames at {sample.fps} per second")
    if sample.width < 1 or sample.height < 1 or sample.width * sample.height > limits.PIXELS.most:
        raise ValueError(f"sample {sample.key!r} has {sample.width} x {sample.height} pixels")
    if not all(index in classes for index, _, _ in sample.labels):
        raise ValueError(f"sample {sample.key!r} has a class outside 0..{len(classes) - 1}")


def _compact(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"))


def _words(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
