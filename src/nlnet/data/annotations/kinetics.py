"""The annotations of Kinetics: CSV files with a row for each segment of a video, which shows one class."""

from collections.abc import Sequence
from math import ceil, inf
from pathlib import Path

from nlnet.data.annotations.records import Annotations, Record
from nlnet.data.annotations.tables import listing, parse_interval, read_class_list, read_rows
from nlnet.errors import UserError, nearest

_COLUMNS = ("youtube_id", "time_start", "time_end", "split")
_SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}

_Row = tuple[str, dict[str, str]]


def read_kinetics(source: Path | Sequence[Path]) -> Annotations:
    """Kinetics: CSV files, or folders of them, with columns label, youtube_id, time_start, time_end, split.

    Classes are the sorted labels, or the lines of a `classes.txt` beside the first of the files. A row with both times
    empty is about the whole video. Rows of the split test may lack the label, and the whole file its column, as in the
    published ones; they are left out.
    Raises UserError that names file, line and value.
    """
    sources = [source] if isinstance(source, Path) else list(source)
    paths = [path for place in sources for path in (sorted(place.glob("*.csv")) if place.is_dir() else [place])]
    if not paths:
        raise UserError(f"annotations={sources[0]}: no CSV file here; {listing(sources[0])}")
    rows, left_out = list[_Row](), list[tuple[str, str, str]]()
    for path in paths:
        found = list(read_rows(path, _COLUMNS, ("label",)))
        rows += [(where, row) for where, row in found if row.get("label")]
        if count := _without_label(path, found):
            left_out.append(("test", path.name, f"{path}: {count:,} rows have no label and are left out"))
    if not rows:
        _require_labels(paths[0])
        raise UserError(f"annotations={paths[0]}: no row has a label; add the files of train and validate")
    listed = paths[0].parent / "classes.txt"
    classes = read_class_list(listed) if listed.is_file() else sorted({row["label"] for _, row in rows})
    index = {name: i for i, name in enumerate(classes)}
    records = tuple(_segment(row, index, where) for where, row in rows)
    return Annotations(records, tuple(classes), "multiclass", left_out=tuple(left_out))


def _without_label(path: Path, rows: list[_Row]) -> int:
    """How many rows have no label. Raises UserError where one of another split than test has none."""
    without = [row for _, row in rows if not row.get("label")]
    if any(row["split"] != "test" for row in without):
        _require_labels(path)
    return len(without)


def _require_labels(path: Path) -> None:
    """Raises UserError where the column of the labels is missing, or one of them."""
    for _ in read_rows(path, ("label", *_COLUMNS)):
        pass


def _segment(row: dict[str, str], index: dict[str, int], where: str) -> Record:
    label, video, split = row["label"], row["youtube_id"], row["split"]
    if label not in index:
        raise UserError(f"{where}: label {label!r} is not in classes.txt; {nearest(label, index)}")
    if split not in _SPLITS:
        raise UserError(f"{where}: split {split!r}, expected train, validate or test")
    times = row["time_start"], row["time_end"]
    if times == ("", ""):
        return Record(video, _SPLITS[split], ((index[label], 0.0, inf),), stems=(video,), folder=label)
    problem = f"{where}: segment {times[0]!r} to {times[1]!r}, expected seconds, 0 <= start < end, or both empty"
    start, end = parse_interval(*times, problem)
    if start == end:
        raise UserError(f"{where}: the segment from {start:g} s to {end:g} s is empty")
    return Record(
        video=video,
        split=_SPLITS[split],
        labels=((index[label], 0.0, end - start),),
        stems=_stems(video, start, end),
        start=start,
        end=end,
        folder=label,
    )


def _stems(video: str, start: float, end: float) -> tuple[str, ...]:
    """The names that downloaders give to a segment, in whole seconds or in those of the row, and to a whole video."""
    pairs = ((int(start), int(end)), (round(start), round(end)), (int(start), ceil(end)))
    named = [f"{video}_{first:06d}_{last:06d}" for first, last in pairs]
    fractions = [] if start.is_integer() and end.is_integer() else [f"{video}_{start:g}_{end:g}"]
    return *dict.fromkeys((*fractions, *named)), video
