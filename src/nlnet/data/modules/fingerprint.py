"""What a data set is, in a few bytes a sample: enough to tell whether another is the same, and if not, what differs."""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlnet.data.shards.columns.samples import Keys
from nlnet.data.shards.manifest import Manifest

Fingerprint = dict[str, Any]
"""`classes` and `groups`; `train` and `val`, each a dictionary of hashes by sample (N,): `keys` (int64), `labels` and
`content` (int32) where they are known, and `rest`, a hash of what is not of single samples. Fit for a checkpoint."""

Pair = Callable[[Any, Any], str]
"""Says a value of the first set and one of the second: "was 96, is now 64"."""

_CONTENT = ("crc32", "length", "frames", "fps", "width", "height")
SPLITS = {"train": "training", "val": "validation"}


def fingerprint(
    classes: Sequence[str], groups: Mapping[str, Sequence[int]], train: dict[str, Any], val: dict[str, Any]
) -> Fingerprint:
    """The fingerprint of a data set with these `hashed_keys` or `hashed_samples` of its splits."""
    plain = {str(name): [int(k) for k in members] for name, members in groups.items()}
    return {"classes": [str(name) for name in classes], "groups": plain, "train": train, "val": val}


def hashed_keys(keys: Sequence[str]) -> dict[str, Any]:
    """The hashes of a split of which only the samples' names are known."""
    encoded = keys.encoded() if isinstance(keys, Keys) else map(_encoded, keys)
    return {"keys": torch.from_numpy(np.fromiter(map(_hash, encoded), np.int64, len(keys)))}


def hashed_samples(manifest: Manifest, notes: Mapping[str, bytes] | None = None) -> dict[str, Any]:
    """The hashes of a split; `notes` are what is known of a sample besides, by key."""
    samples = manifest.columns
    numbers = zip(*(samples.number(name).tolist() for name in _CONTENT), strict=True)
    content = (repr((*values, *table)).encode() for values, table in zip(numbers, samples.tables, strict=True))
    if notes:
        content = (text + notes.get(key, b"") for text, key in zip(content, samples.keys, strict=True))
    rest = json.dumps([manifest.task, manifest.details, samples.number("shard").tolist()])
    return hashed_keys(samples.keys) | {
        "labels": _crc32((repr(labels).encode() for labels in samples.labels), len(samples)),
        "content": _crc32(content, len(samples)),
        "rest": zlib.crc32(rest.encode()),
    }


def digest(classes: Sequence[str], groups: Mapping[str, Sequence[int]], splits: Sequence[Manifest]) -> str:
    """A hash of the data as a whole, in a fraction of the time of its fingerprint: for the same, that is the same."""
    of_samples = [[m.columns.digest(), m.task, m.details] for m in splits]
    whole = json.dumps([list(classes), {name: list(group) for name, group in groups.items()}, of_samples])
    return blake2b(whole.encode(), digest_size=16).hexdigest()


def key_hash(key: str) -> int:
    """64 bits, so that no two of a million keys are the same."""
    return _hash(_encoded(key))


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _hash(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), signed=True)


def differences(
    old: Fingerprint, new: Fingerprint, pair: Pair, keys: Sequence[str] = (), splits: Sequence[str] = tuple(SPLITS)
) -> list[str]:
    """In words what differs, a line each: the classes, and the samples of `splits`; empty for the same data.

    Args:
        keys: names of samples, for the first one that differs.
    """
    lines = class_differences(old["classes"], new["classes"], pair)
    if old.get("groups", {}) != new.get("groups", {}):
        lines.append("the groups of classes differ")
    for split in splits:
        if not _same(old[split], new[split]):
            lines += _of_split(old[split], new[split], SPLITS[split], pair, {key_hash(key): key for key in keys})
    return lines


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if old.get("rest") != new.get("rest"):
        return False
    parts = [name for name in ("keys", "labels", "content") if name == "keys" or (name in old and name in new)]
    return all(torch.equal(old[name], new[name]) for name in parts)


def class_differences(old: Sequence[str], new: Sequence[str], pair: Pair) -> list[str]:
    """What differs between the names of two sets of classes, in one line; empty for the same."""
    if list(old) == list(new):
        return []
    if len(old) != len(new):
        return [f"the number of classes {pair(len(old), len(new))}"]
    k = next(k for k, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
    what = "class names in another order" if sorted(old) == sorted(new) else "other class names"
    return [f"{what}: {k} {pair(old[k], new[k])}"]


def _of_split(
    old: Mapping[str, Any], new: Mapping[str, Any], split: str, pair: Pair, names: Mapping[int, str]
) -> list[str]:
    before, after = old["keys"].tolist(), new["keys"].tolist()
    row_of = {key: row for row, key in enumerate(before)}
    lines = []
    if other := [key for key in after if key not in row_of] + list({*before} - {*after}):
        count = f"the number of {split} samples {pair(len(before), len(after))}"
        lines.append(f"{count}; {len(other)} are not in both{_first(other, names)}")
    elif before != after:
        moved = [b for a, b in zip(before, after, strict=True) if a != b]
        lines.append(f"the {split} samples are in another order{_first(moved, names)}")
    for part in ("labels", "content"):
        if part in old and part in new:
            was, now = old[part].tolist(), new[part].tolist()
            changed = [key for row, key in enumerate(after) if key in row_of and was[row_of[key]] != now[row]]
            if changed:
                lines.append(f"{part} of {len(changed)} {split} samples differ{_first(changed, names)}")
    if not lines and old.get("rest") != new.get("rest"):
        lines.append(f"the {split} samples are the same, but not how they are divided into shards, or their categories")
    return lines


def _first(hashes: Sequence[int], names: Mapping[int, str]) -> str:
    """The first sample of these whose name is known."""
    named = next((names[key] for key in hashes if key in names), None)
    return f", first {named}" if named else ""


def _crc32(texts: Iterable[bytes], count: int) -> Tensor:
    crcs = np.fromiter(map(zlib.crc32, texts), np.int64, count)
    return torch.from_numpy((crcs - (1 << 31)).astype(np.int32))
