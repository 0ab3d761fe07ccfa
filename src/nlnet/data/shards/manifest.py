"""The manifest: what lies where in a set of shards. One JSON file beside the shards of each split."""

import gc
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from nlnet import limits
from nlnet.data.annotations.records import TASKS
from nlnet.data.shards.columns.check import check_keys_differ, check_samples
from nlnet.data.shards.columns.rows import FIELDS, OtherLayout, Rows, in_pieces, read_lines, wide_columns
from nlnet.data.shards.columns.sample import Sample
from nlnet.data.shards.columns.samples import Samples
from nlnet.data.shards.fields import row, typed
from nlnet.errors import UserError
from nlnet.reading import parse_json
from nlnet.saving import write_bytes

__all__ = ["Manifest", "Sample", "Samples", "Shard", "joined", "manifest_name", "write_manifest"]

FORMAT = 1
_SHARD = {"name": str, "samples": int, "bytes": int, "sha256": str}


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file: its name in the manifest's folder, its samples, its size in bytes and its SHA-256 in hex."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A split of a data set in shards.

    `task` is "multilabel", "multiclass" or "detection". `groups` are named sets of class indices that are reported
    apart. `details` are what else a data set has to say: for detection its categories, in COCO's words; under
    "subsets" named sets of sample indices that are reported apart. `samples` may be given as any sequence; it is kept
    as `columns`, from which a `Sample` is made when it is asked for.
    """

    dataset: str
    split: str
    task: str
    classes: tuple[str, ...]
    groups: dict[str, tuple[int, ...]]
    shards: tuple[Shard, ...]
    samples: Sequence[Sample]
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", Samples.of(self.samples))

    @property
    def columns(self) -> Samples:
        """`samples`, whose columns are for what looks at all of them."""
        assert isinstance(self.samples, Samples)
        return self.samples

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
            "sample": list(FIELDS),
        }
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        if tables := [f"{json.dumps(s.key)}:{_compact(s.table)}" for s in self.samples if s.table]:
            lines.append('"times": {\n' + ",\n".join(tables) + "\n}")
        samples = ",\n".join(_compact([getattr(sample, name) for name in FIELDS]) for sample in self.samples)
        return "{\n" + ",\n".join([*lines, f'"samples": [\n{samples}\n]']) + "\n}\n"

    @staticmethod
    def from_json(text: str | bytes, where: str) -> "Manifest":
        """The manifest that `to_json` wrote; `where` names its place in messages.

        Raises UserError if the text is not a manifest, is of another format version, or contradicts itself.
        """
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        with _no_garbage_collection():
            try:
                return _read(raw, where, by_line=True)
            except OtherLayout:
                return _read(raw, where, by_line=False)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The values are in no circle, and their number would have all objects of the process looked through each time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(raw: bytes, where: str, *, by_line: bool) -> Manifest:
    try:
        content, rows = read_lines(raw) if by_line else (parse_json(raw, ""), None)
        version = content["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: not a shard manifest ({_words(error)}); make it again from the shards") from None
    if version != FORMAT:
        raise UserError(f"{where}: manifest format {version!r:.100}, but this version of nlnet reads {FORMAT}")
    try:
        _check_counts(content, where)
        return _parse(content, rows or in_pieces(content["samples"]), where)
    except (ValueError, KeyError) as error:
        raise UserError(f"{where}: malformed manifest ({_words(error)}); make it again from the shards") from None


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
    samples = Samples.joined(
        [
            manifest.columns.in_shards_from(first_shard)
            for manifest, first_shard in zip(
                manifests, accumulate((len(m.shards) for m in manifests), initial=0), strict=False
            )
        ]
    )
    if repeated := _repeated(samples):
        raise UserError(
            f"{where}: {len(repeated):,} samples are in more than one of them, first {repeated[0]}; name each split"
            " once, and leave repeated samples out of one"
        )
    return replace(
        first,
        split="+".join(manifest.split for manifest in manifests),
        shards=tuple(shard for manifest in manifests for shard in manifest.shards),
        samples=samples,
    )


def _repeated(samples: Samples) -> list[str]:
    """The keys that occur more than once."""
    try:
        check_keys_differ(samples.keys)
    except ValueError:
        return [key for key, count in Counter(samples.keys).items() if count > 1]
    return []


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


def _parse(content: dict[str, Any], rows: Rows, where: str) -> Manifest:
    if content["sample"] != list(FIELDS):
        raise ValueError(f"sample fields {str(content['sample'])[:100]}")
    head = Manifest(
        dataset=_typed(content, "dataset", str),
        split=_typed(content, "split", str),
        task=_typed(content, "task", str),
        classes=tuple(typed(name, str, f"class {k}") for k, name in enumerate(_typed(content, "classes", list))),
        groups={name: _members(name, members) for name, members in _typed(content, "groups", dict).items()},
        details=_typed(content, "details", dict) if "details" in content else {},
        shards=tuple(Shard(*row(s, _SHARD, f"shard {k}")) for k, s in enumerate(_typed(content, "shards", list))),
        samples=(),
    )
    _check_head(head)
    manifest = replace(head, samples=_samples(content, rows, head, where))
    _check_whole(manifest)
    return manifest


def _check_counts(content: dict[str, Any], where: str) -> None:
    for name, limit in (("classes", limits.CLASSES), ("shards", limits.SHARDS), ("samples", limits.SAMPLES)):
        limit.check(len(_typed(content, name, list)), where)


def _typed(content: dict[str, Any], name: str, kind: type) -> Any:
    return typed(content[name], kind, repr(name))


def _samples(content: dict[str, Any], rows: Rows, head: Manifest, where: str) -> Samples:
    tables = dict(_typed(content, "times", dict)) if "times" in content else {}
    shard_bytes = np.array([shard.bytes for shard in head.shards], np.int64)
    parts: list[Samples] = []
    count = 0
    for some in rows:
        limits.SAMPLES.check(count + len(some), where)
        wide = wide_columns(some, count, tables)
        check_samples(wide, shard_bytes, len(head.classes))
        parts.append(wide.narrow())
        count += len(some)
    if tables:
        raise ValueError(f"times of {min(tables)!r:.80}, which is no sample")
    return Samples.joined(parts)


def _members(name: str, members: Any) -> tuple[int, ...]:
    return tuple(typed(k, int, f"a class of group {name!r}") for k in typed(members, list, f"group {name!r}"))


def _check_head(manifest: Manifest) -> None:
    if manifest.task not in TASKS:
        raise ValueError(f"task {manifest.task!r} is none of {', '.join(TASKS)}")
    classes = range(len(manifest.classes))
    for name, members in manifest.groups.items():
        if not all(member in classes for member in members):
            raise ValueError(f"group {name!r} names a class outside 0..{len(classes) - 1}")
    if manifest.task == "detection":
        _check_details(manifest.details)


def _check_whole(manifest: Manifest) -> None:
    if "subsets" in manifest.details:
        _check_subsets(manifest)
    check_keys_differ(manifest.columns.keys)
    counts = np.bincount(manifest.columns.number("shard"), minlength=len(manifest.shards)).tolist()
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


def _compact(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"))


def _words(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
