"""The picture of the long-range ablation: a clip, and the AUROC of its relations against the distance, row by row.

    python benchmarks/range_picture.py RUNS docs/range.png

RUNS is a folder of the runs of configs/sweeps/ablation.yaml. Points are means over seeds, bars reach from the lowest to
the highest.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nlnet.data.synthetic import longrange

ROWS = {
    "ablation_2_blocks": ("2 blocks, space-time", "tab:blue"),
    "ablation_embedded_gaussian": ("1 block, space-time", "tab:cyan"),
    "ablation_space": ("2 blocks, space only", "tab:green"),
    "ablation_time": ("2 blocks, time only", "tab:orange"),
    "ablation_baseline": ("no block", "tab:red"),
}
KINDS = {"space": "apart in space: pixels", "time": "apart in time: frames", "both": "apart in both: pixels, frames"}
_FIGURE = re.compile(r"val/AUROC_(space|time|both)_(\d+)px_(\d+)f")

Values = dict[tuple[str, str], dict[tuple[int, int], list[float]]]
"""(experiment, kind) -> (pixels, frames) -> the AUROC of each seed."""


def read(runs: Path) -> Values:
    """The figures of all finished runs below a folder."""
    values: Values = defaultdict(lambda: defaultdict(list))
    for path in sorted(runs.rglob("summary.json")):
        summary = json.loads(path.read_text())
        if summary["status"] == "finished":
            for name, value in summary["metrics"].items():
                if match := _FIGURE.fullmatch(name):
                    kind, pixels, frames = match[1], int(match[2]), int(match[3])
                    values[summary["experiment"], kind][pixels, frames].append(value)
    return values


def draw(axes: Axes, values: Values, kind: str) -> None:
    """The rows of one kind of relation, side by side so that none hides another."""
    distances = sorted({distance for (_, k), found in values.items() if k == kind for distance in found})
    for number, (experiment, (label, color)) in enumerate(ROWS.items()):
        found = values.get((experiment, kind))
        if not found:
            continue
        at = [k for k, distance in enumerate(distances) if distance in found]
        x = np.array(at) + 0.05 * (number - 2)
        y = np.array([mean(found[distances[k]]) for k in at])
        low, high = (np.array([edge(found[distances[k]]) for k in at]) for edge in (min, max))
        axes.errorbar(x, y, [y - low, high - y], fmt="o-", color=color, label=label, markersize=4, capsize=2)
    names = {"space": "{0}", "time": "{1}", "both": "{0}, {1}"}[kind]
    axes.set_xticks(range(len(distances)), [names.format(*distance) for distance in distances])
    axes.set(title=KINDS[kind], ylim=(0.4, 1.03))
    axes.title.set_fontsize(9)
    axes.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
    axes.grid(alpha=0.3)


def draw_clip(figure: Figure, index: int = 17) -> None:
    """The four frames of a clip."""
    frames, _ = longrange.render("val", index)
    for t, axes in enumerate(figure.subplots(2, 2).flat):
        axes.imshow(frames[t])
        axes.set_title(f"frame {t}", fontsize=8)
        axes.axis("off")
    figure.suptitle("anchor white; red apart in space,\ngreen in time, blue in both", fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("runs", "target"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    values = read(arguments.runs)
    if not values:
        parser.exit(1, f"{arguments.runs}: no finished run of the ablation\n")
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3.6))
    draw_clip(left)
    panels = right.subplots(1, 3, sharey=True)
    for axes, kind in zip(panels, KINDS, strict=True):
        draw(axes, values, kind)
    panels[0].set_ylabel("AUROC of the relation")
    panels[-1].legend(frameon=False, fontsize=7, loc="center right")
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.target, dpi=110)


if __name__ == "__main__":
    main()
