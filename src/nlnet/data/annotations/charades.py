"""The annotations of Charades, as released: a CSV file a split, several actions a video, each with its time."""

from collections.abc import Sequence
from pathlib import Path

from nlnet.data.annotations.records import Annotations, Labels, Record
from nlnet.data.annotations.tables import listing, parse_interval, read_class_list, read_rows
from nlnet.errors import UserError, nearest

CHARADES_CLASSES = 157
_ACTION = "'<class> <start s> <end s>' with 0 <= start <= end, such as 'c092 11.90 21.20'"


def read_charades(source: Path | Sequence[Path]) -> Annotations:
    """The Charades release: `Charades_v1_train.csv` and `Charades_v1_test.csv`, one of which may be absent.

    `source` is their folder, or files whose names end in train and test.

    Class names come from `Charades_v1_classes.txt` where it lies beside them. Videos without actions stay in.
    Raises UserError that names file, line and value.
    """
    sources = [source] if isinstance(source, Path) else list(source)
    found: dict[str, Path] = {}
    for place in sources:
        found |= _files(place)
    classes = _classes(next(iter(found.values())).parent / "Charades_v1_classes.txt")
    index = {name.split()[0]: i for i, name in enumerate(classes)}
    records = [
        Record(row["id"], split, _actions(row["actions"], index, where), stems=(row["id"],))
        for split, path in found.items()
        for where, row in read_rows(path, ("id", "actions"))
    ]
    return Annotations(tuple(records), classes, "multilabel")


def _files(source: Path) -> dict[str, Path]:
    """The file of each split. Raises UserError for none."""
    named = {split: source / f"Charades_v1_{split}.csv" for split in ("train", "test")}
    if source.is_file():
        named = {split: source for split in named if source.stem.endswith(split)}
    found = {split: path for split, path in named.items() if path.is_file()}
    if not found:
        what = f"here; {listing(source)}" if source.is_dir() else "is this"
        raise UserError(f"annotations={source}: no Charades_v1_train.csv or Charades_v1_test.csv {what}")
    return found


def _classes(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(f"c{i:03d}" for i in range(CHARADES_CLASSES))
    return tuple(read_class_list(path))


def _actions(text: str, index: dict[str, int], where: str) -> Labels:
    return tuple(_action(action, index, where) for action in text.split(";") if action.strip())


def _action(text: str, index: dict[str, int], where: str) -> tuple[int, float, float]:
    parts = text.split()
    if len(parts) != 3:
        raise UserError(f"{where}: action {text!r}, expected {_ACTION}")
    if parts[0] not in index:
        raise UserError(
            f"{where}: class {parts[0]!r} is not among the {len(index)} classes; {nearest(parts[0], index)}"
        )
    start, end = parse_interval(parts[1], parts[2], f"{where}: action {text!r}, expected {_ACTION}")
    return index[parts[0]], start, end
