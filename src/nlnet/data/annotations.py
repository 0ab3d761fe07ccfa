"""Reads what data sets say about their videos: the CSV files of Charades and of Kinetics."""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlnet.data.manifest import Labels
from nlnet.errors import UserError, nearest

CHARADES_CLASSES = 157
_CHARADES_ACTION = "'<class> <start s> <end s>' with 0 <= start <= end, such as 'c092 11.90 21.20'"
_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_KINETICS_SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Record:
    """One row: a video, its split, its (class index, start s, end s), the segment of the video it is about, if any.

    `stems` are the file names it may have, without suffix, the most telling first: only the last of several can be a
    file that still has to be cut. `folder` is the class folder that may hold the file. `notes` is JSON that goes into
    the sample as it is.
    """

    video: str
    split: str
    labels: Labels
    stems: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    folder: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Annotations:
    """All rows of a data set, its class names in the order of their indices, and the manifest's task and details."""

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    task: str
    details: dict[str, Any] = field(default_factory=dict)


def read_charades(folder: Path) -> Annotations:
    """The Charades release: `Charades_v1_train.csv` and `Charades_v1_test.csv`, one of which may be absent.

    Class names come from `Charades_v1_classes.txt` where it lies beside them. Videos without actions stay in.
    Raises UserError that names file, line and value.
    """
    paths = {split: folder / f"Charades_v1_{split}.csv" for split in ("train", "test")}
    found = {split: path for split, path in paths.items() if path.is_file()}
    if not found:
        raise UserError(
            f"annotations={folder}: no Charades_v1_train.csv or Charades_v1_test.csv here; {_listing(folder)}"
        )
    classes = _charades_classes(folder / "Charades_v1_classes.txt")
    index = {name.split()[0]: i for i, name in enumerate(classes)}
    records = [
        Record(row["id"], split, _actions(row["actions"], index, where), stems=(row["id"],))
        for split, path in found.items()
        for where, row in _rows(path, ("id", "actions"))
    ]
    return Annotations(tuple(records), classes, "multilabel")


def read_kinetics(source: Path) -> Annotations:
    """Kinetics: one CSV file or a folder of them, with columns label, youtube_id, time_start, time_end, split.

    Classes are the sorted labels, or the lines of a `classes.txt` beside the CSV files.
    Raises UserError that names file, line and value.
    """
    paths = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    if not paths:
        raise UserError(f"annotations={source}: no CSV file here; {_listing(source)}")
    rows = [row for path in paths for row in _rows(path, _KINETICS_COLUMNS)]
    listed = (source if source.is_dir() else source.parent) / "classes.txt"
    classes = _lines(listed) if listed.is_file() else sorted({row["label"] for _, row in rows})
    index = {name: i for i, name in enumerate(classes)}
    return Annotations(tuple(_segment(row, index, where) for where, row in rows), tuple(classes), "multiclass")


def _read_coco(source: Path) -> Annotations:
    from nlnet.data.coco_annotations import read_coco  # which needs the records above

    return read_coco(source)


READERS: dict[str, Callable[[Path], Annotations]] = {
    "charades": read_charades,
    "kinetics": read_kinetics,
    "coco": _read_coco,
}


def _charades_classes(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(f"c{i:03d}" for i in range(CHARADES_CLASSES))
    return tuple(_lines(path))


def _actions(text: str, index: dict[str, int], where: str) -> Labels:
    return tuple(_action(action, index, where) for action in text.split(";") if action.strip())


def _action(text: str, index: dict[str, int], where: str) -> tuple[int, float, float]:
    parts = text.split()
    if len(parts) != 3:
        raise UserError(f"{where}: action {text!r}, expected {_CHARADES_ACTION}")
    if parts[0] not in index:
        raise UserError(
            f"{where}: class {parts[0]!r} is not among the {len(index)} classes; {nearest(parts[0], index)}"
        )
    start, end = _interval(parts[1], parts[2], f"{where}: action {text!r}, expected {_CHARADES_ACTION}")
    return index[parts[0]], start, end


def _segment(row: dict[str, str], index: dict[str, int], where: str) -> Record:
    label, video, split = row["label"], row["youtube_id"], row["split"]
    if label not in index:
        raise UserError(f"{where}: label {label!r} is not in classes.txt; {nearest(label, index)}")
    if split not in _KINETICS_SPLITS:
        raise UserError(f"{where}: split {split!r}, expected train, validate or test")
    times = row["time_start"], row["time_end"]
    start, end = _interval(*times, f"{where}: segment {times[0]!r} to {times[1]!r}, expected seconds, 0 <= start < end")
    if start == end:
        raise UserError(f"{where}: the segment from {start:g} s to {end:g} s is empty")
    return Record(
        video=video,
        split=_KINETICS_SPLITS[split],
        labels=((index[label], 0.0, end - start),),
        stems=(f"{video}_{round(start):06d}_{round(end):06d}", video),
        start=start,
        end=end,
        folder=label,
    )


def _interval(start: str, end: str, problem: str) -> tuple[float, float]:
    try:
        interval = float(start), float(end)
    except ValueError:
        raise UserError(problem) from None
    if not (0 <= interval[0] <= interval[1] and math.isfinite(interval[1])):
        raise UserError(problem)
    return interval


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("file, line n", row) of a CSV with at least these columns, none of them missing in any row."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                header = ",".join(reader.fieldnames or ())
                raise UserError(
                    f"{path}, line 1: no column {', '.join(missing)} in the header {header!r}, expected at least"
                    f" {','.join(columns)}; name the right file or folder with annotations="
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if any(row[name] is None for name in columns):
                    raise UserError(f"{where}: fewer fields than the header has")
                row = {name: row[name].strip() for name in columns}
                if not row[columns[0]]:
                    raise UserError(f"{where}: {columns[0]} is empty")
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV file in UTF-8: {error}") from None


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8: {error}") from None
    names = [line for line in lines if line]
    twice = {name for name in names if names.count(name) > 1}
    if not names or twice:
        raise UserError(f"{path}: {f'{min(twice)!r} occurs twice' if twice else 'no class in it'}; one class a line")
    return names


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"it holds {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else "it is empty"
