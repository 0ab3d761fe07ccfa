"""`configs/tables/NAME.yaml`: the rows of a table, the experiments they are, and what is published about them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlnet.config.search_path import search_path
from nlnet.errors import UserError, nearest
from nlnet.reading import read_yaml

FOLDER = "tables"
PERCENT = "%"
_KEYS = {"title", "source", "varies", "metrics", "rows"}
_OF_METRIC = {"name", "label", "unit"}
_OF_ROW = {"group", "label", "experiment", "baseline", "published"}


@dataclass(frozen=True)
class Metric:
    """A column: the metric's name as a run logs it, and how it is shown.

    A `name` of None is a column of published figures alone. In percent the logged fraction is shown times 100.
    """

    name: str | None
    label: str
    unit: str = ""

    @property
    def scale(self) -> float:
        """What a logged value is multiplied by."""
        return 100.0 if self.unit == PERCENT else 1.0

    @property
    def digits(self) -> int:
        """After the point."""
        return 1 if self.unit == PERCENT else 3


@dataclass(frozen=True)
class Row:
    """A row; `published` has a figure or None for each metric, and no `experiment` is somebody else's method."""

    label: str
    experiment: str | None = None
    group: str = ""
    baseline: bool = False
    published: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one's own.

    Args:
        name: of its file.
        title: what it compares.
        source: whose figures the published ones are.
        varies: the keys of the configuration that the rows of a group differ in, and nothing else.
        metrics: the columns; the first is what differences and plots are of.
        rows: from top to bottom.
    """

    name: str
    title: str
    source: str
    varies: tuple[str, ...]
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]

    def baseline_of(self, row: Row) -> Row | None:
        """What the row is compared with: the baseline of its group, if that is another row."""
        found = next((other for other in self.rows if other.baseline and other.group == row.group), None)
        return found if found is not row else None


def table_names() -> list[str]:
    """The tables there are, in the project's folder and in the user's own."""
    return sorted({path.stem for root in search_path() for path in (root / FOLDER).glob("*.yaml")})


def load_table(name: str) -> Table:
    """Raises UserError where there is no such table, and for what is not written as a table is."""
    path = next((p for root in search_path() if (p := root / FOLDER / f"{name}.yaml").is_file()), None)
    if path is None or name not in table_names():
        raise UserError(f"table={name}: there is no such table; {nearest(name, table_names())}")
    content = _mapping(read_yaml(path), _KEYS, f"{path}")
    metrics = tuple(
        _metric(node, f"{path}: metrics, {k + 1}") for k, node in enumerate(_list(content, "metrics", path))
    )
    if not metrics:
        raise UserError(f"{path}: metrics has no entry; name one, such as {{name: val/top1, label: top-1}}")
    rows = [_row(node, len(metrics), f"{path}: rows, {k + 1}") for k, node in enumerate(_list(content, "rows", path))]
    table = Table(
        name,
        _text(content, "title", f"{path}"),
        _text(content, "source", f"{path}"),
        tuple(map(str, _list(content, "varies", path) if "varies" in content else [])),
        metrics,
        tuple(rows),
    )
    _check(table, path)
    return table


def _check(table: Table, path: Path) -> None:
    groups = [row.group for row in table.rows if row.baseline]
    for what, names in (
        ("experiment", [row.experiment for row in table.rows if row.experiment]),
        ("label", [f"{row.group} {row.label}".strip() for row in table.rows]),
    ):
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{path}: rows: two have the {what} {twice}; each row has its own")
    if doubled := [group for group in groups if groups.count(group) > 1]:
        of_group = f" of the group {doubled[0]}" if doubled[0] else ""
        raise UserError(f"{path}: rows: two are the baseline{of_group}; leave one")


def _metric(node: Any, where: str) -> Metric:
    content = _mapping(node, _OF_METRIC, where)
    name, unit = content.get("name"), content.get("unit", "")
    if unit not in ("", PERCENT):
        raise UserError(f"{where}: unit: {unit!r}: expected {PERCENT!r}, or nothing for a plain number")
    return Metric(None if name is None else _text(content, "name", where), _text(content, "label", where), unit)


def _row(node: Any, metrics: int, where: str) -> Row:
    content = _mapping(node, _OF_ROW, where)
    published, baseline = content.get("published", [None] * metrics), content.get("baseline", False)
    if not isinstance(published, list) or len(published) != metrics or not all(map(_is_figure, published)):
        raise UserError(f"{where}: published: {published}: expected {metrics} numbers, one a metric, or null for none")
    if not isinstance(baseline, bool):
        raise UserError(f"{where}: baseline: {baseline}: expected true or false")
    experiment = None if content.get("experiment") is None else _text(content, "experiment", where)
    group = _text(content, "group", where) if "group" in content else ""
    return Row(_text(content, "label", where), experiment, group, baseline, tuple(published))


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def _mapping(value: Any, known: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {value!r:.60}: expected keys of {', '.join(sorted(known))}")
    for key in value:
        if key not in known:
            raise UserError(f"{where}: {key}: there is no such key; {nearest(str(key), known)}")
    return value


def _list(content: Mapping[str, Any], key: str, where: object) -> Sequence[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise UserError(f"{where}: {key}: {value!r:.60}: expected a list")
    return value


def _text(content: Mapping[str, Any], key: str, where: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: {key}: {value!r:.60}: expected a text")
    return value
