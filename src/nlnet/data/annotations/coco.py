"""Reads COCO's annotation files: `instances_*.json` and `person_keypoints_*.json`, checked before anything is used."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from nlnet import limits
from nlnet.data.annotations.coco_categories import unified
from nlnet.data.annotations.coco_check import Problem, check_content, describe
from nlnet.data.annotations.coco_plausible import plausibility
from nlnet.data.annotations.records import Annotations, Labels, Record
from nlnet.errors import UserError
from nlnet.reading import read_json

PREFIXES = ("instances_", "person_keypoints_")
ROBOFLOW = "_annotations.coco.json"
"""The file in the folder of each split, beside its images, as Roboflow exports them."""

EXPECTED = f"instances_NAME.json or person_keypoints_NAME.json in it or in its folder annotations, or NAME/{ROBOFLOW}"
_KEYPOINT_FIELDS = ("keypoints", "num_keypoints")


def find_files(source: Path) -> dict[str, list[Path]]:
    """The annotation files by their name's end, such as "train2017"; the instances before the keypoints.

    `source` is a folder with them in it or in its folder `annotations`, or one in Roboflow's layout; or one file, of
    any name.
    """
    if source.is_file():
        return {_end(source): [source]}
    found: dict[str, list[Path]] = {}
    for prefix in PREFIXES:
        for path in sorted([*source.glob(f"{prefix}*.json"), *source.glob(f"annotations/{prefix}*.json")]):
            found.setdefault(_end(path), []).append(path)
    for path in [] if found else sorted([*source.glob(f"*/{ROBOFLOW}"), *source.glob(ROBOFLOW)]):
        found.setdefault(_end(path), []).append(path)
    return found


def is_coco(folder: Path) -> bool:
    """Whether COCO's annotation files lie in this folder."""
    return folder.is_dir() and bool(find_files(folder))


def read_coco(source: Path) -> Annotations:
    """COCO's annotations in `find_files(source)`; the split of `instances_train2017.json` is "train".

    Annotations with one id in both files of a split are one object; its record gets the keypoints too. Raises UserError
    for everything that `find_mistakes` finds, all together, and for a split with objects of which none can be used.
    """
    contents, problems = _load(source)
    if problems:
        first, *further = describe(problems)
        raise UserError(f"annotations={source}: {first}", *further, "fix the files; nothing was read from them")
    plausible = {split_of(name): plausibility(content) for name, content in contents.items()}
    for split, found in plausible.items():
        if hopeless := found.hopeless(split):
            raise UserError(f"annotations={source}: {hopeless}")
    categories = next(iter(contents.values()))["categories"]
    class_of = {row["id"]: k for k, row in enumerate(categories)}
    records = [
        record for name, content in contents.items() for record in _records(name, split_of(name), content, class_of)
    ]
    names = tuple(row["name"] for row in categories)
    return Annotations(tuple(records), names, "detection", {"categories": categories}, plausible=plausible)


def find_mistakes(source: Path) -> list[Problem]:
    """What is wrong with the annotation files, whichever it is in. Raises UserError where there are none."""
    return _load(source)[1]


def split_of(name: str) -> str:
    """ "train" for "train2017", and "val" for Roboflow's "valid"."""
    plain = re.sub(r"_?\d{4}$", "", name) or name
    return "val" if plain == "valid" else plain


def shown_classes(annotations: Sequence[Mapping[str, Any]], class_of: Mapping[int, int]) -> Labels:
    """Every class of which there is an object that is no crowd."""
    shown = {class_of[row["category_id"]] for row in annotations if not row.get("iscrowd", 0)}
    return tuple((index, 0.0, 1.0) for index in sorted(shown))


def other_files(source: Path) -> str:
    """The JSON files that are there, for a message."""
    found = sorted(path.name for path in [*source.glob("*.json"), *source.glob("annotations/*.json")])
    return f"; there are {', '.join(found[:5])}, of which prepare reads one with annotations=FILE" if found else ""


def _load(source: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The content of each split by the end of its files' names, and the mistakes."""
    files = find_files(source)
    if not files:
        raise UserError(f"annotations={source}: no {EXPECTED}{other_files(source)}")
    ends: dict[str, str] = {}
    for name in files:
        if split_of(name) in ends:
            raise UserError(
                f"annotations={source}: {ends[split_of(name)]} and {name} are both the split {split_of(name)};"
                " give a folder with one of them, or one file"
            )
        ends[split_of(name)] = name
    contents, problems = {}, []
    for name, paths in files.items():
        if len({path.name for path in paths}) < len(paths):
            raise UserError(f"annotations={source}: {' and '.join(map(str, paths))} are the same split; remove one")
        loaded = [_read(path) for path in paths]
        found = [
            problem._replace(where=f"{_shown(path)}, {problem.where}")
            for path, content in zip(paths, loaded, strict=True)
            for problem in check_content(content)
        ]
        problems += found
        if not found:
            contents[name], contradictions = _merge(name, loaded)
            problems += contradictions
    categories, contradictions = unified({name: content["categories"] for name, content in contents.items()})
    for content in contents.values():
        content["categories"] = categories
    return contents, problems + contradictions


def _read(path: Path) -> Any:
    try:
        return read_json(path, limits.ANNOTATIONS, limits.ANNOTATION_MEMORY)
    except OSError as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None


def _merge(name: str, contents: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[Problem]]:
    """The content of the instances, with the images, the categories and the keypoints of the other file."""
    if len(contents) == 1:
        return contents[0], []
    first, second = contents
    images = {row["id"]: row for row in [*second["images"], *first["images"]]}
    ours = {row["id"]: row for row in first["annotations"]}
    extra = {row["id"]: row for row in second["annotations"]}
    problems = [
        Problem(f"{name}, annotation {key}", "contradiction", f"{field} is {ours[key][field]} and {extra[key][field]}")
        for key in ours.keys() & extra.keys()
        for field in ("image_id", "category_id")
        if ours[key][field] != extra[key][field]
    ]
    categories = {row["id"]: row for row in first["categories"]}
    categories |= {row["id"]: {**categories.get(row["id"], {}), **row} for row in second["categories"]}
    annotations = [{**row, **_keypoints(extra.get(row["id"], {}))} for row in first["annotations"]]
    annotations += [row for key, row in extra.items() if key not in ours]
    merged = {"images": images.values(), "annotations": annotations, "categories": categories.values()}
    return {kind: list(rows) for kind, rows in merged.items()}, problems


def _keypoints(row: Mapping[str, Any]) -> dict[str, Any]:
    return {field: row[field] for field in _KEYPOINT_FIELDS if field in row}


def _records(name: str, split: str, content: dict[str, Any], class_of: dict[int, int]) -> Iterator[Record]:
    objects: dict[int, list[dict[str, Any]]] = {}
    for row in content["annotations"]:
        objects.setdefault(row["image_id"], []).append(row)
    for image in content["images"]:
        path = PurePosixPath(image["file_name"].replace("\\", "/"))
        rows = objects.get(image["id"], [])
        yield Record(
            video=image["file_name"],
            split=split,
            labels=shown_classes(rows, class_of),
            stems=(path.stem,),
            folder=name,
            notes=json.dumps({"image": image, "annotations": rows}, separators=(",", ":")),
        )


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.name == ROBOFLOW else path.name


def _end(path: Path) -> str:
    if path.name == ROBOFLOW:
        return path.absolute().parent.name
    for prefix in PREFIXES:
        if path.stem.startswith(prefix):
            return path.stem.removeprefix(prefix)
    return path.stem
