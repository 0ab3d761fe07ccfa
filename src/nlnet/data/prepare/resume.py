"""The record of a finished shard, kept beside the shards in `.parts`: what makes a run go on and parts join."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from nlnet.data.prepare.output import Bucket, Folder
from nlnet.data.prepare.plan import Failure, Plan
from nlnet.data.prepare.settings import Settings
from nlnet.data.shards.manifest import Sample, Shard
from nlnet.errors import UserError
from nlnet.reading import parse_json

FOLDER = ".parts"
_PLAN = f"{FOLDER}/plan.json"


@dataclass(frozen=True)
class Part:
    """A finished shard; an empty one (every video of it failed) has no tar."""

    split: str
    shard: Shard
    samples: list[Sample]
    failures: list[Failure]


def check_fingerprint(settings: Settings, plan: Plan, output: Folder | Bucket) -> str:
    """The fingerprint of what the shards are made from. Raises UserError where the output holds others."""
    mine = {"settings": settings.choices(images=plan.annotations.images), "inputs": plan.inputs}
    fix = "choose another folder with out=, or delete this one"
    before = output.read(_PLAN)
    if before is not None:
        theirs = parse_json(before, f"{settings.out}/{_PLAN}")
        if theirs != mine:
            raise UserError(f"out={settings.out} holds shards made differently ({_changes(theirs, mine)}); {fix}")
    elif others := [name for name in output.names() if name.endswith((".tar", "-manifest.json")) and name[0] != "."]:
        raise UserError(f"out={settings.out} holds {min(others)}, which this command has no record of; {fix}")
    return json.dumps(mine)


def write_fingerprint(output: Folder | Bucket, fingerprint: str) -> None:
    """Leaves the fingerprint for the next process to compare with."""
    if output.read(_PLAN) is None:
        output.write(_PLAN, fingerprint.encode())


def save_part(output: Folder | Bucket, fingerprint: str, part: Part) -> None:
    """Records a finished shard."""
    output.write(_name(part.shard.name), json.dumps({"digest": fingerprint, **asdict(part)}).encode())


def load_part(output: Folder | Bucket, fingerprint: str, tar: str) -> Part | None:
    """The record of a shard, or None if it is to be made (again)."""
    before = output.read(_name(tar))
    if before is None:
        return None
    content = parse_json(before, _name(tar))
    shard = Shard(**content["shard"])
    if content["digest"] != fingerprint or (shard.samples and output.size(shard.name) != shard.bytes):
        return None
    samples = [_sample(row) for row in content["samples"]]
    return Part(content["split"], shard, samples, [Failure(**row) for row in content["failures"]])


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(**{**row, "labels": tuple(map(tuple, row["labels"])), "table": tuple(row.get("table", ()))})


def _name(tar: str) -> str:
    return f"{FOLDER}/{tar}.json"


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    before, now = old["settings"], new["settings"]
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changed = [f"{name}={before.get(name)} then, {now.get(name)} now" for name in names]
    return ", ".join(changed) or "the annotations or the video files have changed since"
