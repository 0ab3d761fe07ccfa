"""`curves.png`: loss and the monitored metric over the optimizer steps."""

from pathlib import Path

from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.saving import replacing


def draw(metrics: Path, monitor: str, target: Path, title: str) -> None:
    """Draw `metrics.csv` to `target`. Nothing is drawn for an empty file."""
    rows = read_rows(metrics) if metrics.is_file() else []
    if not rows:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    losses, metrics_axes = figure.subplots(1, 2)
    for axes, names in ((losses, ["train/loss", "val/loss"]), (metrics_axes, _metric_names(rows, monitor))):
        for name in names:
            points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
            if points:
                marker = "." if len(points) < 60 else None
                axes.plot(*zip(*points, strict=True), label=name, marker=marker, linewidth=1.2)
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(frameon=False)
    losses.set_ylabel("loss")
    metrics_axes.set_ylim(0, max(1.02, metrics_axes.get_ylim()[1]))  # what is monitored may be a loss
    metrics_axes.set_ylabel(monitor)
    figure.suptitle(title, fontsize=10)
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _metric_names(rows: list[dict[str, str]], monitor: str) -> list[str]:
    others = {name for row in rows for name in row if name and name.startswith(("val/mAP", "val/AUROC", "val/top"))}
    return [monitor, *sorted(others - {monitor})]
