"""The plots of a table: its metric against the compute, and the learning curves of its runs (the paper's Figure 4)."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from nlnet.errors import UserError
from nlnet.reports.assemble import Line, Part
from nlnet.reports.sources.run_folders import Run
from nlnet.reports.svg import Series, chart, swatch
from nlnet.reports.tables import PERCENT, Metric
from nlnet.text import line

_POINTS = 120  # of a curve
_LARGEST = 1e12  # that is drawn
_LOSSES = ("train/loss", "val/loss")
_ACCURACY = re.compile(r"val/top\d+")


def plots(part: Part) -> str:
    """A legend and the charts that there are figures for; empty where there are none."""
    charts = [_against_compute(part), *_learning_curves(part)]
    shown = [each for each in charts if each]
    if not shown:
        return ""
    names = [
        f"<li>{swatch(number)}{escape(line(_name(each)))}</li>" for number, each in enumerate(part.lines) if each.runs
    ]
    figures = "".join(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in shown)
    return f'<ul class="legend">{"".join(names)}</ul><div class="plots">{figures}</div>'


Figure = tuple[str, str]


def _name(each: Line) -> str:
    return f"{each.row.group}, {each.row.label}" if each.row.group else each.row.label


def _against_compute(part: Part) -> Figure | None:
    metric = part.table.metrics[0]
    costs = {"GMACs": [each.gmacs for each in part.lines], "seconds": [each.seconds for each in part.lines]}
    by, values = next((item for item in costs.items() if any(item[1])), ("", []))
    series = [
        Series(_name(each), number, [(x, each.spreads[0].mean)], [each.spreads[0].deviation], joined=False)
        for number, (each, x) in enumerate(zip(part.lines, values, strict=False))
        if each.spreads[0] is not None and x is not None and x < _LARGEST and abs(each.spreads[0].mean) < _LARGEST
    ]
    if len(series) < 2:
        return None
    words = {"GMACs": "billions of multiply-adds a sample", "seconds": "seconds of training"}
    title = f"{line(metric.label)} against compute"
    return title, chart(series, title, words[by], _unit(metric))


def _unit(metric: Metric) -> str:
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def _learning_curves(part: Part) -> list[Figure | None]:
    metric = part.table.metrics[0]
    validated = metric.name or ""
    stage, _, of = validated.partition("/")
    columns = [validated, *([f"train/{of}"] if stage == "val" else [])]
    of_metric: list[Series] = []
    of_loss: list[Series] = []
    for number, each in enumerate(part.lines):
        for item in each.runs:
            curves = _curves(item.run, [*columns, *_LOSSES])
            name = f"{_name(each)}, seed {item.run.seed}"
            for column in columns:
                points = [(x, _as_shown(metric, y)) for x, y in _points(curves, column)]
                of_metric += _series(name, number, column, points)
            for column in _LOSSES:
                of_loss += _series(name, number, column, _points(curves, column))
    label = _curve_label(metric)
    dotted = " (training dotted)"
    losses = f"Learning curves: loss{dotted}"
    metrics = f"Learning curves: {line(label)}{dotted if any(each.faint for each in of_metric) else ''}"
    found = [(metrics, of_metric, label), (losses, of_loss, "loss")]
    return [(title, chart(s, title, "optimizer step", y)) if s else None for title, s, y in found]


def _series(name: str, number: int, column: str, points: Sequence[tuple[float, float]]) -> list[Series]:
    """One curve of a run, of single batches a faint one; none where there are no points."""
    faint = column.startswith("train/")
    return [Series(f"{name}, {column}", number, _thinned(points) if faint else points, faint=faint)] if points else []


def _curve_label(metric: Metric) -> str:
    error = metric.unit == PERCENT and _ACCURACY.fullmatch(metric.name or "")
    return f"{metric.label} error (%)" if error else _unit(metric)


def _as_shown(metric: Metric, value: float) -> float:
    """In the unit of the table; an accuracy as its error, as the paper has it."""
    error = metric.unit == PERCENT and _ACCURACY.fullmatch(metric.name or "")
    return 100 - metric.scale * value if error else metric.scale * value


def _curves(run: Run, names: Sequence[str]) -> Sequence[Mapping[str, float]]:
    try:
        return run.curve(names)
    except UserError:
        return []


def _points(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    found = [(row["step"], row[name]) for row in rows if "step" in row and name in row]
    return sorted((x, y) for x, y in found if max(abs(x), abs(y)) < _LARGEST)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_POINTS`, each the mean of its neighbors: the losses of single batches scatter."""
    size = -(-len(points) // _POINTS) or 1
    pieces = [points[k : k + size] for k in range(0, len(points), size)]
    return [(sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)) for piece in pieces]
