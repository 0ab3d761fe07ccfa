"""What every network weighs and costs, beside what its authors or the programs that people use publish.

Parameters, and billions of multiply-adds for one clip (the paper's "FLOPs"), counted on meta tensors: nothing is
computed, and the numbers are the same on every machine. Table 2e is given as ratios, as in the paper.

    python benchmarks/model_table.py [--out benchmarks/results/model_table.json] [--page docs/networks.md]
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nlnet import build_model
from nlnet.models import describe

ROOT = Path(__file__).resolve().parents[1]
RELEASED = {"geometry": "dense", "pool1_padding": 0}
SPARSE = {"geometry": "sparse", "pool1_padding": 0}
PADDED = {"geometry": "sparse", "pool1_padding": 1}
MMACTION = {"geometry": "dense", "pool1_padding": 1, "pool1_frames": 1}
FIVE = {"nonlocal_blocks": 5}
SLOW_FIVE = {"nonlocal_blocks": ["res3.0", "res3.2", "res4.0", "res4.2", "res4.4"]}
MMCV = {"nonlocal_options": {"preset": "mmcv"}}


@dataclass(frozen=True)
class Row:
    """A network at one clip size; published in millions and billions, None where nobody says."""

    label: str
    name: str
    frames: int
    side: int
    options: dict[str, Any] = field(default_factory=dict)
    parameters: float | None = None
    gmacs: float | None = None
    source: str = ""


PAPER, CODE = "paper, table 2e", "released code"
MMACTION2, PYTORCHVIDEO = "mmaction2, with norms", "pytorchvideo, with norms"
ROWS = [
    Row("C2D R50", "c2d_r50", 32, 224, RELEASED, 24.33, 20.2, CODE),
    Row("C2D R50, 1 block", "c2d_r50", 32, 224, RELEASED | {"nonlocal_blocks": 1}),
    Row("C2D R50, 5 blocks", "c2d_r50", 32, 224, RELEASED | FIVE, 31.69, 28.4, CODE),
    Row("C2D R50, 10 blocks", "c2d_r50", 32, 224, RELEASED | {"nonlocal_blocks": 10}, 39.04, None, CODE),
    Row("I3D R50", "i3d_r50", 32, 224, RELEASED, 28.04, 32.8, CODE),
    Row("I3D R50, 5 blocks", "i3d_r50", 32, 224, RELEASED | FIVE, 35.40, 41.0, CODE),
    Row("C2D R50", "c2d_r50", 8, 224, SPARSE, 24.33, 19.3, CODE),
    Row("C2D R50, 5 blocks", "c2d_r50", 8, 224, SPARSE | FIVE, 31.69, 27.4, CODE),
    Row("I3D R50", "i3d_r50", 8, 224, SPARSE, 28.04, 28.1, CODE),
    Row("I3D R50, 5 blocks", "i3d_r50", 8, 224, SPARSE | FIVE, 35.40, 36.2, CODE),
    Row("I3D R50, 5 blocks", "i3d_r50", 8, 256, SPARSE | FIVE, 35.40, 48.6, CODE),
    Row("C2D R101", "c2d_r101", 8, 224, SPARSE, 43.32, 34.1, CODE),
    Row("C2D R101", "c2d_r101", 8, 224, SPARSE, 43.2, 34.2, PAPER),
    Row("C2D R101, 5 blocks", "c2d_r101", 8, 224, SPARSE | FIVE, 50.68, None, CODE),
    Row("I3D R101", "i3d_r101", 8, 224, SPARSE),
    Row("I3D R101, 5 blocks", "i3d_r101", 8, 224, SPARSE | FIVE),
    Row(
        "I3D R50, 5 blocks, res3 by 4",
        "i3d_r50",
        128,
        224,
        RELEASED | FIVE | {"nonlocal_groups": {"res3": 4}},
    ),
    Row("C2D R50", "c2d_r50", 8, 256, PADDED, 24.33, 25.89, PYTORCHVIDEO),
    Row("I3D R50", "i3d_r50", 8, 256, PADDED, 28.04, 37.53, PYTORCHVIDEO),
    Row("I3D R50", "i3d_r50", 32, 256, MMACTION, 28.04, 43.5, MMACTION2),
    Row("I3D R50, 5 blocks", "i3d_r50", 32, 256, MMACTION | FIVE | MMCV, 35.40, 59.3, MMACTION2),
    Row("Slow R50", "slow_r50", 8, 256),
    Row("Slow R50, 5 blocks", "slow_r50", 8, 256, SLOW_FIVE | MMCV, 39.81, 96.66, MMACTION2),
    Row("Slow R101", "slow_r101", 8, 256),
]
TABLE_2E = Row("C2D R101", "c2d_r101", 32, 224, {"geometry": "paper"})
RATIOS = [
    Row("I3D R101, 3x3x3", "i3d_r101", 32, 224, {"geometry": "paper", "inflation": "3x3x3"}, 1.5, 1.8, PAPER),
    Row("I3D R101, 3x1x1", "i3d_r101", 32, 224, {"geometry": "paper"}, 1.2, 1.5, PAPER),
    Row("C2D R101, 5 blocks", "c2d_r101", 32, 224, {"geometry": "paper"} | FIVE, 1.2, 1.2, PAPER),
]


def count(row: Row) -> tuple[float, float]:
    """Millions of parameters, and billions of multiply-adds for one clip."""
    with torch.device("meta"):
        model = build_model(row.name, **row.options)
    summary = describe(model, (3, row.frames, row.side, row.side))
    return summary.parameters / 1e6, summary.gmacs


def table() -> list[dict[str, Any]]:
    """Each row with what is counted and what is published, then table 2e as ratios to its baseline."""
    parameters, gmacs = count(TABLE_2E)
    counted = [(row, count(row)) for row in ROWS]
    counted += [(row, (p / parameters, g / gmacs)) for row in RATIOS for p, g in [count(row)]]
    return [
        {
            "network": row.label,
            "clip": f"{row.frames}x{row.side}x{row.side}",
            "unit": "ratio" if row in RATIOS else "M, GMACs",
            "parameters": round(p, 6),
            "gmacs": round(g, 6),
            "published_parameters": row.parameters,
            "published_gmacs": row.gmacs,
            "source": row.source,
        }
        for row, (p, g) in counted
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | clip | parameters | published | GMACs | published | by |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        times, digits = ("x", 2) if row["unit"] == "ratio" else ("", 1)
        weight, cost = f"{row['parameters']:.2f}{times}", f"{row['gmacs']:.{digits}f}{times}"
        said = [f"{value:g}{times}" if value else "" for value in (row["published_parameters"], row["published_gmacs"])]
        cells = [row["network"], row["clip"], weight, said[0], cost, said[1], row["source"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(rows: list[dict[str, Any]]) -> str:
    return f"""# The networks

Made by `python benchmarks/model_table.py`. Parameters in millions; GMACs are billions of multiply-adds for one clip
(frames x height x width), attention included, counted on meta tensors. The last rows are ratios to C2D R101 on 32
frames, as in table 2e. mmaction2 and pytorchvideo count norms as well, up to 2 % more; without norms their networks
count exactly the same.

{markdown(rows)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "model_table.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "networks.md")
    arguments = parser.parse_args()
    rows = table()
    print(markdown(rows))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"counted_on": "meta tensors", "rows": rows}, indent=2) + "\n")
    arguments.page.write_text(page(rows))


if __name__ == "__main__":
    main()
