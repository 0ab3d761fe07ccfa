"""The record of a finished shard, kept beside the shards in `.parts`: what makes a run go on and parts join."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from nlnet.data.manifest import Sample, Shard
from nlnet.data.output import Bucket, Folder
from nlnet.data.plan import Failure, Plan, Settings
from nlnet.errors import UserError

FOLDER = ".parts"
_PLAN = f"{FOLDER}/plan.json"


@dataclass(frozen=True)
class Part:
    """A finished shard; an empty one (every video of it failed) has no tar."""

    split: str
    shard: Shard
    samples: list[Sample]
    failures: list[Failure]


def claim(settings: Settings, plan: Plan, output: Folder | Bucket) -> str:
    """What the shards are made from, as text. Raises UserError where the output holds others."""
    mine = {"settings": settings.choices(), "inputs": plan.inputs}
    mend = "choose another folder with out=, or delete this one"
    before = output.read(_PLAN)
    if before is not None:
        theirs = json.loads(before)
        if theirs != mine:
            raise UserError(f"out={settings.out} holds shards made differently ({_changes(theirs, mine)}); {mend}")
    elif others := [name for name in output.names() if name.endswith((".tar", "-manifest.json")) and name[0] != "."]:
        raise UserError(f"out={settings.out} holds {min(others)}, which this command has no record of; {mend}")
    return json.dumps(mine)


def stake(output: Folder | Bucket, digest: str) -> None:
    """Leaves the claim for the next process to compare with."""
    if output.read(_PLAN) is None:
        output.write(_PLAN, digest.encode())


def save(output: Folder | Bucket, digest: str, part: Part) -> None:
    """Records a finished shard."""
    output.write(_name(part.shard.name), json.dumps({"digest": digest, **asdict(part)}).encode())


def load(output: Folder | Bucket, digest: str, tar: str) -> Part | None:
    """The record of a shard, or None if it is to be made (again)."""
    before = output.read(_name(tar))
    if before is None:
        return None
    content = json.loads(before)
    shard = Shard(**content["shard"])
    if content["digest"] != digest or (shard.samples and output.size(shard.name) != shard.bytes):
        return None
    samples = [Sample(**{**row, "labels": tuple(map(tuple, row["labels"]))}) for row in content["samples"]]
    return Part(content["split"], shard, samples, [Failure(**row) for row in content["failures"]])


def _name(tar: str) -> str:
    return f"{FOLDER}/{tar}.json"


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    before, now = old["settings"], new["settings"]
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changed = [f"{name}={before.get(name)} then, {now.get(name)} now" for name in names]
    return ", ".join(changed) or "the annotations or the video files have changed since"
