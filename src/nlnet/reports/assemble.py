"""From runs and tables to what a report says: figures, differences to the baseline, and what is left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nlnet.errors import UserError
from nlnet.reports.differences import Change, Spread, changes_over_videos, over_seeds, predictions_of, spread
from nlnet.reports.matching import Measured, by_conditions, measured, one_a_seed, recipes
from nlnet.reports.sources.run_folders import Run
from nlnet.reports.tables import Metric, Row, Table


@dataclass(frozen=True)
class Line:
    """A row with what its runs say; `spreads` and `changes` have one entry a metric, in the unit in which it is shown.

    Costs are means over the runs, None where no run says them: parameters, billions of multiply-adds a sample, seconds
    of the training. `relative` are parameters and multiply-adds over those of the baseline.
    """

    row: Row
    runs: tuple[Measured, ...]
    spreads: tuple[Spread | None, ...]
    changes: tuple[Change | None, ...]
    parameters: float | None
    gmacs: float | None
    seconds: float | None
    relative: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Part:
    """A table under the conditions that its runs share, and what is said below it."""

    table: Table
    conditions: Mapping[str, str]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def assemble(runs: Sequence[Run], tables: Sequence[Table], *, chosen: bool) -> list[Part]:
    """The tables that have rows of these runs' names, or all where they were `chosen`; then the other runs, unless
    chosen. A run of another name counts in such a table if its recipe is a row's: a baseline is trained once.

    A table comes once for each set of conditions under which there are runs (size, what was typed, protocol of the
    test), so that a row is a mean over nothing but seeds.
    """
    items = measured(runs)
    names = {row.experiment for table in tables for row in table.rows if row.experiment}
    same = recipes({*names, *(item.run.text("experiment") for item in items)})
    parts, used = [], list[Measured]()
    for table in tables:
        row_of = {id(item): _row_of(table, item.run.text("experiment"), same) for item in items}
        found = [item for item in items if row_of[id(item)]]
        if not chosen and not any(
            row.experiment == item.run.text("experiment") for item in found for row in table.rows
        ):
            continue
        used += found
        for conditions, group in by_conditions(found) or [({}, [])]:
            rows = {row: [item for item in group if row_of[id(item)] is row] for row in table.rows}
            parts.append(_part(table, conditions, rows))
    others = [item for item in items if not any(item is each for each in used)]
    return parts if chosen else parts + _others(others)


def _row_of(table: Table, experiment: str, same: Mapping[str, str]) -> Row | None:
    """The row that is called so, or else one of the same recipe."""
    rows = [row for row in table.rows if row.experiment]
    named = (row for row in rows if row.experiment == experiment)
    alike = (row for row in rows if same[row.experiment or ""] == same[experiment])
    return next(named, None) or next(alike, None)


def _others(items: Sequence[Measured]) -> list[Part]:
    """Plain tables of the runs of no table, one for each metric that they monitor: a row is an experiment under the
    conditions that its name says."""
    parts = []
    for monitor in sorted({item.run.text("monitor") for item in items}):
        own = [item for item in items if item.run.text("monitor") == monitor]
        shared = dict(set.intersection(*(set(item.conditions.items()) for item in own)))
        rows: dict[Row, list[Measured]] = {}
        for item in own:
            words = [f"{k}={v}" for k, v in item.conditions.items() if k not in shared]
            label = " ".join([item.run.text("experiment") or "no experiment", *words])
            rows.setdefault(Row(label), []).append(item)
        table = Table("other", "Runs of no table", "", (), (Metric(monitor or None, monitor or "metric"),), (*rows,))
        parts.append(_part(table, shared, rows))
    return parts


def _part(table: Table, conditions: Mapping[str, str], rows: Mapping[Row, Sequence[Measured]]) -> Part:
    notes = []
    counted: dict[Row, tuple[Measured, ...]] = {}
    for row in table.rows:
        items = rows.get(row, ())
        kept, older = one_a_seed([item for item in items if item.finished])
        counted[row] = tuple(kept)
        notes += [f"not counted: {_where(item)}: {_why(item)}" for item in items if not item.finished]
        notes += [f"not counted: {_where(item)}: a newer run has the same seed" for item in older]
    everything = [item for items in counted.values() for item in items]
    for metric in table.metrics:
        lacking = [_where(item) for item in everything if metric.name and item.tested.metric(metric.name) is None]
        notes += [f"no {metric.name} in {_some(lacking)}"] if lacking else []
    lines = {row: _line(table, row, counted[row]) for row in table.rows}
    changes, more = _all_changes(table, counted)
    compared = [
        replace(line, changes=changes[row], relative=_relative(line, lines, table)) for row, line in lines.items()
    ]
    return Part(table, conditions, tuple(compared), tuple(_of_conditions(table, conditions) + notes + more))


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _where(item: Measured) -> str:
    return f"{item.tested.folder}"


def _why(item: Measured) -> str:
    run = item.run if item.run.status != "finished" else item.tested
    reason = run.text("reason")
    words = {"lost": "says it is running, and its process is gone", "running": "still running"}
    said = words.get(run.status, run.status)
    return f"{said}: {reason}" if reason else said


def _of_conditions(table: Table, conditions: Mapping[str, str]) -> list[str]:
    published = any(value is not None for row in table.rows for value in row.published)
    if not published or conditions.get("size", "full") == "full":
        return []
    return [
        f"these runs are of size={conditions['size']}: the published figures are of the full size, and no comparison"
    ]


def _line(table: Table, row: Row, items: tuple[Measured, ...]) -> Line:
    def mean(values: Iterable[float | None]) -> float | None:
        found = spread([value for value in values if value is not None])
        return found.mean if found else None

    spreads = [spread([*_values(metric, items).values()]) for metric in table.metrics]
    return Line(
        row,
        items,
        tuple(spreads),
        (None,) * len(table.metrics),
        mean(item.run.number("parameters") for item in items),
        mean(item.run.number("gmacs") for item in items),
        mean(item.run.number("seconds") for item in items if item.trained),
    )


def _values(metric: Metric, items: Iterable[Measured]) -> dict[int | None, float]:
    """By seed, in the unit in which the metric is shown."""
    found = {item.run.seed: item.tested.metric(metric.name) for item in items} if metric.name else {}
    return {seed: metric.scale * value for seed, value in found.items() if value is not None}


def _relative(line: Line, lines: Mapping[Row, Line], table: Table) -> tuple[float | None, float | None]:
    def ratio(own: float | None, other: float | None) -> float | None:
        return own / other if own is not None and other else None

    if (row := table.baseline_of(line.row)) is None:
        return None, None
    return ratio(line.parameters, lines[row].parameters), ratio(line.gmacs, lines[row].gmacs)


Changes = tuple[Change | None, ...]


def _all_changes(table: Table, counted: Mapping[Row, tuple[Measured, ...]]) -> tuple[dict[Row, Changes], list[str]]:
    """The differences of every row to its baseline, over videos where every run of both has its scores."""
    found: dict[Row, Changes] = {row: (None,) * len(table.metrics) for row in table.rows}
    notes = []
    for baseline in (row for row in table.rows if row.baseline and counted[row]):
        try:
            scores = predictions_of([item.tested for item in counted[baseline]])
        except UserError as error:
            scores = []
            notes.append(str(error).splitlines()[0])
        for row in table.rows:
            if table.baseline_of(row) is baseline and counted[row]:
                drawn, why = changes_over_videos([item.tested for item in counted[row]], scores)
                notes += [f"{row.label}: compared over seeds, not over videos: {why}"] if why else []
                found[row] = tuple(_change(m, counted[row], counted[baseline], drawn) for m in table.metrics)
    return found, notes


def _change(
    metric: Metric, row: tuple[Measured, ...], baseline: tuple[Measured, ...], drawn: Mapping[str, Change]
) -> Change | None:
    name = (metric.name or "").rpartition("/")[2]
    if name in drawn:
        return drawn[name].times(metric.scale)
    return over_seeds(_values(metric, row), _values(metric, baseline))
