"""A report as Markdown and as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from nlnet.reports.assemble import Line, Part
from nlnet.reports.differences import Change, Spread
from nlnet.reports.tables import Metric
from nlnet.text import cell, line

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~$^&@]|(?<=:)/(?=/)|(?<=www)\.)")
_CSV = (
    "table", "conditions", "group", "row", "experiment", "metric", "unit", "mean", "standard_deviation", "seeds",
    "difference", "low", "high", "over", "published", "parameters", "gmacs", "seconds",
)  # fmt: skip


def markdown(parts: Sequence[Part], notes: Sequence[str]) -> str:
    """All tables, with the notes of each below it and those of the whole report at the end."""
    blocks = ["# Report"]
    for part in parts:
        blocks.append(f"## {plain(heading(part))}")
        if about := caption(part):
            blocks.append(plain(about))
        head, rows = columns(part), [cells(part, each) for each in part.lines]
        numbers = ["---", *["---:"] * (len(head) - 1)]
        lines = [[*map(plain, head)], numbers, *([*map(plain, row)] for row in rows)]
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in lines))
        blocks += [_list(part.notes)] if part.notes else []
    if notes:
        blocks += ["## What could not be read", _list(notes)]
    return "\n\n".join(blocks) + "\n"


def _list(notes: Iterable[str]) -> str:
    return "\n".join(f"- {plain(note)}" for note in notes)


def plain(text: str) -> str:
    """Text that Markdown shows as it is: in one line, every sign with a meaning escaped."""
    return _SPECIAL.sub(r"\\\1", line(text))


def heading(part: Part) -> str:
    """Its name, title and conditions, such as "table2a: Pairwise functions (size=demo)"."""
    table = part.table
    name = table.title if table.name == "other" else f"{table.name}: {table.title}"
    shown = [f"{key}={value}" for key, value in part.conditions.items() if (key, value) != ("size", "full")]
    return f"{name} ({', '.join(shown)})" if shown else name


def caption(part: Part) -> str:
    """What the published figures are, and what an interval is."""
    said = [f"Published figures: {part.table.source}."] if _with_figures(part) else []
    said += [f"Rows differ in {', '.join(part.table.varies)}."] if part.table.varies else []
    if any(change for each in part.lines for change in each.changes):
        said.append(
            "Mean ± standard deviation over seeds; differences to the baseline with the 95 % interval of a paired"
            " bootstrap over what is named."
        )
    elif any(s and s.deviation is not None for each in part.lines for s in each.spreads):
        said.append("Mean ± standard deviation over seeds.")
    return " ".join(said)


def columns(part: Part) -> list[str]:
    """The names of the columns."""
    metrics = part.table.metrics
    own = [_named(metric) for metric in metrics if metric.name]
    published = [f"published {_named(metrics[k])}" for k in _with_figures(part)]
    difference = [f"difference in {_named(metrics[0])}"] if _has_baseline(part) else []
    return ["row", *own, *published, *difference, "seeds", "parameters (M)", "GMACs", "seconds"]


def cells(part: Part, each: Line) -> list[str]:
    """The cells of a row, empty where there is nothing."""
    metrics, row = part.table.metrics, each.row
    label = f"{row.group}, {row.label}" if row.group else row.label
    own = [shown_spread(metric, s) for metric, s in zip(metrics, each.spreads, strict=True) if metric.name]
    published = [_number(row.published[k] if row.published else None, 1) for k in _with_figures(part)]
    difference = [shown_change(metrics[0], each.changes[0])] if _has_baseline(part) else []
    seeds = str(len(each.runs)) if each.runs else ""
    parameters = None if each.parameters is None else each.parameters / 1e6
    costs = [_cost(parameters, each.relative[0]), _cost(each.gmacs, each.relative[1])]
    return [label, *own, *published, *difference, seeds, *costs, _number(each.seconds, 0)]


def shown_spread(metric: Metric, value: Spread | None) -> str:
    """Such as "72.7 ± 0.3"."""
    if value is None:
        return ""
    mean = f"{value.mean:.{metric.digits}f}"
    return mean if value.deviation is None else f"{mean} ± {value.deviation:.{metric.digits}f}"


def shown_change(metric: Metric, change: Change | None) -> str:
    """Such as "+0.9 (+0.3 to +1.4), 3 seeds"."""
    if change is None:
        return ""
    value, *ends = (f"{v:+.{metric.digits}f}" for v in (change.value, change.low, change.high) if v is not None)
    interval = f" ({' to '.join(ends)})" if ends else ""
    return f"{value}{interval}, {change.over}"


def csv_text(parts: Sequence[Part]) -> str:
    """One line for each row and metric, in the units in which they are shown; what there is not is empty."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, _CSV, restval="", lineterminator="\n")
    writer.writeheader()
    for part in parts:
        for each in part.lines:
            for k, metric in enumerate(part.table.metrics):
                writer.writerow({key: _csv_cell(v) for key, v in _record(part, each, k, metric).items()})
    return file.getvalue()


def _record(part: Part, each: Line, k: int, metric: Metric) -> Mapping[str, object]:
    own, change, row = each.spreads[k], each.changes[k], each.row
    figures = {"mean": own.mean, "standard_deviation": own.deviation, "seeds": own.count} if own else {}
    differences = vars(change) | {"difference": change.value} if change else {}
    return {
        "table": part.table.name,
        "conditions": " ".join(f"{key}={value}" for key, value in part.conditions.items()),
        "group": row.group,
        "row": row.label,
        "experiment": row.experiment,
        "metric": metric.name or metric.label,
        "unit": metric.unit,
        **figures,
        **{key: value for key, value in differences.items() if key != "value"},
        "published": row.published[k] if row.published else None,
        "parameters": each.parameters,
        "gmacs": each.gmacs,
        "seconds": each.seconds,
    }


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, int | float) else cell(value)


def _named(metric: Metric) -> str:
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def _with_figures(part: Part) -> list[int]:
    """The places of the metrics that some row has a published figure of."""
    of_rows = [each.row.published for each in part.lines if each.row.published]
    return [k for k in range(len(part.table.metrics)) if any(figures[k] is not None for figures in of_rows)]


def _has_baseline(part: Part) -> bool:
    return any(row.baseline for row in part.table.rows)


def _cost(value: float | None, relative: float | None) -> str:
    if value is None:
        return ""
    shown = f"{value:,.1f}" if value >= 1 else f"{value:.3f}"
    return shown if relative is None else f"{shown} ({relative:.2f}x)"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
