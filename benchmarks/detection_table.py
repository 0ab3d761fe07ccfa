"""What every row of tables 5 and 6 weighs and costs, and what its blocks add; the published precision beside it.

Parameters, and billions of multiply-adds for one image of 800 x 1088 (backbone and pyramid, the box head at 1000
proposals, the mask or keypoint head at 100 detections), counted on meta tensors: nothing is computed, and the numbers
are the same on every machine. The paper says of one block that it costs less than 5 % more.

    python benchmarks/detection_table.py [--out benchmarks/results/detection_table.json]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from nlnet.config.compose import compose
from nlnet.models.detection.build import build_detector
from nlnet.models.detection.summary import describe_detector

ROOT = Path(__file__).resolve().parents[1]
SIZE = (800, 1088)
CLASSES, PERSONS = 80, 1

# experiment, its baseline, and what its authors publish: box and mask AP, or keypoint AP
ROWS: list[tuple[str, str | None, str]] = [
    ("table5_r50_baseline", None, "38.0 / 34.6"),
    ("table5_r50_nl", "table5_r50_baseline", "39.0 / 35.5"),
    ("table5_r50_gc", "table5_r50_baseline", "38.5 / 35.1, from 37.3 / 34.2"),
    ("table5_r101_baseline", None, "39.5 / 36.0"),
    ("table5_r101_nl", "table5_r101_baseline", "40.8 / 37.1"),
    ("table5_x152_baseline", None, "44.1 / 39.7"),
    ("table5_x152_nl", "table5_x152_baseline", "45.0 / 40.3"),
    ("table6_baseline", None, "65.1"),
    ("table6_head", "table6_baseline", "66.0"),
    ("table6_head_backbone", "table6_baseline", "66.5"),
]


def count(experiment: str) -> tuple[float, float]:
    """Millions of parameters, and billions of multiply-adds for one image, of an experiment's network."""
    cfg = compose([f"experiment={experiment}"])
    options: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    del options["_target_"]
    with torch.device("meta"):
        net = build_detector(**options, num_classes=PERSONS if cfg.data.keypoints else CLASSES)
    summary = describe_detector(net, SIZE)
    return summary.parameters / 1e6, summary.gmacs


def table() -> list[dict[str, Any]]:
    """Each row with its counts, and how much more than its baseline that is in percent."""
    counts = {experiment: count(experiment) for experiment, _, _ in ROWS}
    rows = []
    for experiment, baseline, published in ROWS:
        parameters, gmacs = counts[experiment]
        row: dict[str, Any] = {"experiment": experiment, "parameters": parameters, "gmacs": gmacs}
        if baseline:
            row["more_parameters"] = 100 * (parameters / counts[baseline][0] - 1)
            row["more_gmacs"] = 100 * (gmacs / counts[baseline][1] - 1)
        rows.append(
            {name: v if isinstance(v, str) else round(v, 3) for name, v in row.items()} | {"published": published}
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| experiment | parameters (M) | more | GMACs | more | published AP |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        more = [f"+{row[name]:.1f} %" if name in row else "" for name in ("more_parameters", "more_gmacs")]
        cells = [
            row["experiment"],
            f"{row['parameters']:.2f}",
            more[0],
            f"{row['gmacs']:.1f}",
            more[1],
            row["published"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "detection_table.json")
    arguments = parser.parse_args()
    rows = table()
    print(markdown(rows))
    content = {"counted_on": "meta tensors", "image": list(SIZE), "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
