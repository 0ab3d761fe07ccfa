"""A folder of COCO's own files as a data set, without shards: a manifest made on the spot, its images read as files."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlnet.data.annotations.coco import find_mistakes, is_coco
from nlnet.data.annotations.coco_check import Problem, describe
from nlnet.data.annotations.coco_plausible import Plausibility
from nlnet.data.media.suffixes import IMAGE_FORMATS, READ_ALWAYS
from nlnet.data.prepare.plan import Item, Plan, make_plan
from nlnet.data.prepare.settings import Settings
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.storage import is_remote
from nlnet.errors import UserError, nearest


@dataclass(frozen=True)
class FolderSplit:
    """A split: a manifest without shards, image file and records (JSON) of each key, and what is hardly meant."""

    manifest: Manifest
    paths: dict[str, Path]
    notes: dict[str, bytes]
    plausible: Plausibility
    remarks: list[str]

    def ground_truth(self) -> dict[str, Any]:
        """The annotations as COCO's dictionary."""
        records = [json.loads(self.notes[sample.key]) for sample in self.manifest.samples]
        return {
            "images": [record["image"] for record in records],
            "annotations": [row for record in records for row in record["annotations"]],
            "categories": self.manifest.details["categories"],
        }


def is_plain(folder: str) -> bool:
    """Whether this is a local folder of COCO's own files, and not one of shards."""
    return not is_remote(folder) and is_coco(Path(folder)) and not any(Path(folder).glob("*-manifest.json"))


def read_folder(
    folder: Path, dataset: str, splits: Sequence[str], formats: Sequence[str] = READ_ALWAYS
) -> list[FolderSplit]:
    """The splits of a folder that has COCO's annotation files, and the images (of these formats) anywhere below it.

    Raises UserError for everything that is wrong with the annotations, and for images that are not there, all together.
    """
    plan = _plan(folder, formats)
    for split in splits:
        if split not in plan.splits:
            raise UserError(f"data.shards={folder}: no annotations of a split {split}; {nearest(split, plan.splits)}")
    if missing := _missing(plan, splits):
        fix = "add the images, or use the annotations of those here"
        first, *further = describe(missing)
        raise UserError(f"data.shards={folder}: {first}", *further, fix)
    return [_split(plan, dataset, split) for split in splits]


def check_folder(folder: Path) -> list[Problem]:
    """Everything that is wrong or hardly meant with the annotations, or else the images that are not there."""
    if problems := find_mistakes(folder):
        return problems
    plan = _plan(folder, tuple(IMAGE_FORMATS))
    doubts = [
        doubt._replace(where=f"{split}, {doubt.where}")
        for split, found in plan.annotations.plausible.items()
        for doubt in found.doubts
    ]
    return _missing(plan, plan.splits) + doubts


def _plan(folder: Path, formats: Sequence[str]) -> Plan:
    return make_plan(Settings("coco", out=folder, annotations=folder, videos=folder, image_formats=formats))


def _missing(plan: Plan, splits: Iterable[str]) -> list[Problem]:
    return [Problem(f"{f.split}, {f.video}", f.cause, f.detail) for f in plan.failures if f.split in splits]


def _split(plan: Plan, dataset: str, split: str) -> FolderSplit:
    items = [item for name, _, items in plan.shards for item in items if name == split]  # in the order of shards
    manifest = Manifest(
        dataset=dataset,
        split=split,
        task="detection",
        classes=plan.annotations.classes,
        groups={},
        shards=(),
        samples=tuple(_sample(index, item) for index, item in enumerate(items)),
        details=plan.annotations.details,
    )
    notes = {item.key: item.record.notes.encode() for item in items}
    paths = {item.key: item.path for item in items}
    found = plan.annotations.plausible[split]
    return FolderSplit(manifest, paths, notes, found, found.lines(split))


def _sample(index: int, item: Item) -> Sample:
    """A file is like a shard of its own; its checksum is not known."""
    image, size = json.loads(item.record.notes)["image"], item.path.stat().st_size
    width, height, labels = image["width"], image["height"], item.record.labels
    return Sample(item.key, index, 0, size, 0, frames=1, fps=1.0, width=width, height=height, labels=labels)
