"""The README's picture: a built-in clip, and the relational classes over the steps with and without non-local blocks.

    python benchmarks/demo_picture.py RUN_WITH_BLOCKS RUN_WITHOUT_BLOCKS docs/demo.png

The runs are folders of `python src/train.py experiment=charades_nl`, the second with `model.nonlocal_blocks=0`.
"""

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nlnet.data.synthetic import clips as synthetic
from nlnet.runs.callbacks.metrics_csv import read_rows

RELATIONAL, LOCAL = "val/AUROC_relational", "val/AUROC_local"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("with_blocks", "without_blocks", "target"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    draw_clip(left)
    axes = right.subplots()
    for folder, name, color in (
        (arguments.with_blocks, "with 2 non-local blocks", "tab:blue"),
        (arguments.without_blocks, "without", "tab:red"),
    ):
        rows = [row for row in read_rows(folder / "metrics.csv") if row.get(RELATIONAL)]
        steps = [int(row["step"]) for row in rows]
        for figure_name, style in ((RELATIONAL, "-"), (LOCAL, ":")):
            values = [float(row[figure_name]) for row in rows]
            kind = figure_name.removeprefix("val/AUROC_")
            axes.plot(steps, values, style, color=color, marker="o", markersize=4, label=f"{kind}, {name}")
    axes.set(xlabel="optimizer step", ylabel="AUROC, 1,024 validation clips", ylim=(0.4, 1.03))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.target, dpi=110)


def draw_clip(figure: Figure) -> None:
    """Four of the eight frames of one clip and its relational classes."""
    index = 9
    frames, labels = synthetic.render("test", index)
    names = [synthetic.CLASSES[k][5:] for k, _, _ in labels if k in synthetic.GROUPS["relational"]]
    for axes, t in zip(figure.subplots(2, 2).flat, (1, 3, 5, 7), strict=True):
        axes.imshow(frames[t])
        axes.set_title(f"frame {t}", fontsize=8)
        axes.axis("off")
    figure.suptitle("\n".join(names) or "neither relation holds", fontsize=8)


if __name__ == "__main__":
    main()
