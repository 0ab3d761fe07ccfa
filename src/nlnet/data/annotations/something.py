"""The annotations of Something-Something: JSON files with the template of each video's label, one of all classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlnet import limits
from nlnet.data.annotations.records import Annotations, Record
from nlnet.data.annotations.tables import listing
from nlnet.errors import UserError, nearest
from nlnet.reading import read_json

_SPLITS = {"train.json": "train", "validation.json": "val"}  # by the ends of file names
_LABELS = "labels.json"
_DAY = 86400.0  # s: the label is of the whole file, however long that is


def read_something(source: Path) -> Annotations:
    """Something-Something: `*train.json` and `*validation.json`, lists of {"id", "template"}, and `*labels.json`.

    The latter maps the name of a class, which is its template without brackets, to its number as text. The file of the
    test split has no labels, and is left alone. Raises UserError that names file, entry and value.
    """
    if not source.is_dir():
        raise UserError(f"annotations={source}: give the folder of *train.json, *validation.json and *labels.json")
    classes = _classes(_found(source, _LABELS))
    index = {name: number for number, name in enumerate(classes)}
    records = []
    for ending, split in _SPLITS.items():
        path = _found(source, ending)
        content = _content(path)
        if not isinstance(content, list):
            raise UserError(f"{path}: holds a {type(content).__name__}, expected a list of videos")
        records += [_record(entry, split, index, f"{path}, entry {k}") for k, entry in enumerate(content)]
    return Annotations(tuple(records), tuple(classes), "multiclass")


def _found(folder: Path, ending: str) -> Path:
    files = sorted(path for path in folder.glob(f"*{ending}") if path.is_file())
    if len(files) != 1:
        what = f"{files[0].name} and {files[1].name}; leave one of them there" if files else f"none; {listing(folder)}"
        raise UserError(f"annotations={folder}: expected one file whose name ends in {ending}, there is {what}")
    return files[0]


def _classes(path: Path) -> list[str]:
    content = _content(path)
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: expected the number of each class by its name")
    numbers = {name: int(value) if str(value).isdecimal() else -1 for name, value in content.items()}
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise UserError(f"{path}: the numbers of its {len(numbers)} classes are not 0 to {len(numbers) - 1}")
    return sorted(numbers, key=lambda name: numbers[name])


def _record(entry: Any, split: str, index: Mapping[str, int], where: str) -> Record:
    wanted = ("id", "template")
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(name), str) and entry[name] for name in wanted):
        raise UserError(f"{where}: {entry!r:.80}: expected texts for id and template")
    video, name = entry["id"], entry["template"].replace("[", "").replace("]", "")
    if name not in index:
        raise UserError(f"{where}: template {entry['template']!r:.80} is not among the classes; {nearest(name, index)}")
    return Record(video, split, ((index[name], 0.0, _DAY),), stems=(video,), start=0.0, end=_DAY)


def _content(path: Path) -> Any:
    try:
        return read_json(path, limits.ANNOTATIONS, limits.ANNOTATION_MEMORY)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
