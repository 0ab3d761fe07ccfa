"""Tables of annotations: CSV files, lists of classes, times."""

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nlnet import limits
from nlnet.errors import UserError
from nlnet.reading import open_regular, read_text


def read_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """("file, line n", row) of a CSV with at least these columns, none of them missing in any row, and `optional` ones.

    Raises UserError that names file, line and value.
    """
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, newline="", encoding="utf-8-sig") as file:
            limits.ANNOTATIONS.check(os.fstat(raw.fileno()).st_size, path)
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
                further = [name for name in optional if row.get(name) is not None]
                row = {name: row[name].strip() for name in (*columns, *further)}
                if not row[columns[0]]:
                    raise UserError(f"{where}: {columns[0]} is empty")
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV file in UTF-8: {error}") from None


def read_class_list(path: Path) -> list[str]:
    """The names in a file with one class a line. Raises UserError for a name that occurs twice, and for none."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8: {error}") from None
    names = [line for line in lines if line]
    twice = {name for name in names if names.count(name) > 1}
    if not names or twice:
        raise UserError(f"{path}: {f'{min(twice)!r} occurs twice' if twice else 'no class in it'}; one class a line")
    return names


def parse_interval(start: str, end: str, problem: str) -> tuple[float, float]:
    """Two times with 0 <= start <= end, in seconds. Raises UserError with the text `problem`."""
    try:
        interval = float(start), float(end)
    except ValueError:
        raise UserError(problem) from None
    if not (0 <= interval[0] <= interval[1] and math.isfinite(interval[1])):
        raise UserError(problem)
    return interval


def listing(folder: Path) -> str:
    """What lies in a folder, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    return f"it holds {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else "it is empty"
