"""What the demo's clips take: the demo with and without non-local blocks, and two networks that mix in other ways.

Every row is `python src/train.py experiment=charades_nl size=demo OVERRIDES` over some seeds, one process at a time.
Prints a Markdown table of mean (lowest to highest) figures on the 1,024 validation clips and writes them as JSON.

    python benchmarks/demo_table.py [--seeds 0 1 2] [--out benchmarks/results/demo_table.json]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
ROWS = {
    "C2D": ["model.nonlocal_blocks=0"],
    "C2D, 2 non-local blocks": [],
    "I3D (3x1x1 kernels)": ["model=i3d_demo", "model.nonlocal_blocks=0"],
    "I3D, 2 non-local blocks": ["model=i3d_demo"],
    "C2D, MLP head on pooled features": ["model.nonlocal_blocks=0", "model.head=mlp"],
}
COLUMNS = {
    "val/mAP": "mAP",
    "val/mAP_local": "local mAP",
    "val/AUROC_relational": "relational AUROC",
    "seconds": "seconds",
}


def run(overrides: Sequence[str], seed: int, logs: Path) -> dict[str, float]:
    """The figures of one training."""
    fixed = ["experiment=charades_nl", "size=demo", "callbacks.progress=null", f"seed={seed}"]
    folder = logs / str(len(list(logs.iterdir())))
    command = [sys.executable, str(ROOT / "src" / "train.py"), *fixed, *overrides, f"paths.run_dir={folder}"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=os.environ | {"CHARADES_SHARDS": ""})
    summary = json.loads((folder / "summary.json").read_text())
    return summary["metrics"] | {"seconds": summary["seconds"]}


def cell(values: Sequence[float], digits: int) -> str:
    """Mean (lowest to highest)."""
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "demo_table.json")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    print(f"| network | {' | '.join(COLUMNS.values())} |\n|{' --- |' * (len(COLUMNS) + 1)}")
    with tempfile.TemporaryDirectory() as logs:
        for name, overrides in ROWS.items():
            figures = [run(overrides, seed, Path(logs)) for seed in arguments.seeds]
            results[name] = {column: [figure[column] for figure in figures] for column in COLUMNS}
            cells = [cell(results[name][column], 0 if column == "seconds" else 3) for column in COLUMNS]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"machine": machine, "seeds": arguments.seeds, "rows": results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
