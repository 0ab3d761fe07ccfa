"""The annotations of Kinetics: CSV files with a row for each segment of a video, which shows one class."""

from pathlib import Path

from nlnet.data.annotations.records import Annotations, Record
from nlnet.data.annotations.tables import listing, parse_interval, read_class_list, read_rows
from nlnet.errors import UserError, nearest

_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


def read_kinetics(source: Path) -> Annotations:
    """Kinetics: one CSV file or a folder of them, with columns label, youtube_id, time_start, time_end, split.

    Classes are the sorted labels, or the lines of a `classes.txt` beside the CSV files.
    Raises UserError that names file, line and value.
    """
    paths = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    if not paths:
        raise UserError(f"annotations={source}: no CSV file here; {listing(source)}")
    rows = [row for path in paths for row in read_rows(path, _COLUMNS)]
    listed = (source if source.is_dir() else source.parent) / "classes.txt"
    classes = read_class_list(listed) if listed.is_file() else sorted({row["label"] for _, row in rows})
    index = {name: i for i, name in enumerate(classes)}
    return Annotations(tuple(_segment(row, index, where) for where, row in rows), tuple(classes), "multiclass")


def _segment(row: dict[str, str], index: dict[str, int], where: str) -> Record:
    label, video, split = row["label"], row["youtube_id"], row["split"]
    if label not in index:
        raise UserError(f"{where}: label {label!r} is not in classes.txt; {nearest(label, index)}")
    if split not in _SPLITS:
        raise UserError(f"{where}: split {split!r}, expected train, validate or test")
    times = row["time_start"], row["time_end"]
    problem = f"{where}: segment {times[0]!r} to {times[1]!r}, expected seconds, 0 <= start < end"
    start, end = parse_interval(*times, problem)
    if start == end:
        raise UserError(f"{where}: the segment from {start:g} s to {end:g} s is empty")
    return Record(
        video=video,
        split=_SPLITS[split],
        labels=((index[label], 0.0, end - start),),
        stems=(f"{video}_{round(start):06d}_{round(end):06d}", video),
        start=start,
        end=end,
        folder=label,
    )
