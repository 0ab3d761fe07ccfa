"""What each Kinetics recipe needs: epochs, hours of one GPU, and what is read. Computed, not measured.

    python benchmarks/recipe_costs.py [--tflops 100] [--megabytes 0.51]

prints the table of docs/cluster.md. With n = steps x batch samples, of M multiply-adds each:

    hours     = 6 M n / (rate x 3600)     2 operations a multiply-add; backward costs twice what forward does
    terabytes = n x bytes of a video

Validation, batch norm statistics and what is cached are left out.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nlnet.config.compose import compose, options

ROOT = Path(__file__).resolve().parents[1]
TFLOPS = 100.0
"""Sustained by one GPU in bf16: a third of the 312 of an A100's data sheet, a tenth of the 989 of an H100's."""
MEGABYTES = 0.51
"""Of a video: Kinetics-400 with a short side of 256 pixels is 132 GB for 260,000 videos."""
PASSES, OPERATIONS = 3, 2


def costs(recipe: Mapping[str, Any], gmacs: float, tflops: float, megabytes: float) -> dict[str, float]:
    """`samples`, `epochs`, `hours` of one GPU, `terabytes` read, of a composed experiment."""
    samples = recipe["trainer"]["max_steps"] * recipe["data"]["batch_size"]
    return {
        "samples": samples,
        "epochs": recipe["epochs"],
        "hours": PASSES * OPERATIONS * gmacs * 1e9 * samples / (tflops * 1e12 * 3600),
        "terabytes": samples * megabytes / 1e6,
    }


def table(
    recipes: Mapping[str, Any], gmacs: Mapping[str, float], tflops: float = TFLOPS, megabytes: float = MEGABYTES
) -> str:
    """A row for each experiment of Kinetics."""
    lines = [
        "| experiment | GMACs | samples, million | epochs | GPU-hours | TB read |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in sorted(name for name in gmacs if name.startswith("kinetics_")):
        cost = costs(recipes[name], gmacs[name], tflops, megabytes)
        lines.append(
            f"| `{name}` | {gmacs[name]:,.1f} | {cost['samples'] / 1e6:,.1f} | {cost['epochs']:,}"
            f" | {cost['hours']:,.1f} | {cost['terabytes']:,.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=TFLOPS)
    parser.add_argument("--megabytes", type=float, default=MEGABYTES)
    arguments = parser.parse_args()
    counted = json.loads((ROOT / "benchmarks" / "results" / "experiments.json").read_text())["gmacs"]
    names = [name for name in options("experiment") if name.startswith("kinetics_")]
    recipes = {name: OmegaConf.to_container(compose([f"experiment={name}"]), resolve=True) for name in names}
    print(table(recipes, counted, arguments.tflops, arguments.megabytes), end="")


if __name__ == "__main__":
    main()
