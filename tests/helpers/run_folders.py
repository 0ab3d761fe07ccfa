"""Run folders made as plain files: what a run of an experiment leaves, without running it."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nlnet.evaluation.predictions import Predictions

WHEN = 1_700_000_000  # seconds since 1970


def write_run(
    folder: Path, experiment: str, *, seed: int = 0, age: int = 0, typed: Mapping[str, Any] | None = None, **record: Any
) -> Path:
    """A run that finished, unless `record` says otherwise, `age` seconds before `WHEN`; `typed` is what was typed."""
    folder.mkdir(parents=True)
    content = {"status": "finished", "task_name": "train", "experiment": experiment, "size": "full", "demo": False}
    content |= {"seed": seed, "monitor": "val/top1", "seconds": 100.0, "metrics": {}} | record
    config: dict[str, Any] = {"experiment_name": experiment, "seed": seed, "ckpt_path": None}
    config["typed"] = sorted({"experiment", "seed", *(typed or {})})
    for key, value in (typed or {}).items():
        node = config
        for part in key.split(".")[:-1]:
            node = node.setdefault(part, {})
        node[key.split(".")[-1]] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "summary.json").write_text(json.dumps(content))
    os.utime(folder / "summary.json", (WHEN - age, WHEN - age))
    return folder


def write_test(folder: Path, run: Path, protocol: str, metrics: Mapping[str, float], **record: Any) -> Path:
    """An evaluation of the best checkpoint of `run`."""
    trained = json.loads((run / "summary.json").read_text())
    content = trained | {"task_name": "eval", "seconds": 7.0, "metrics": dict(metrics)} | record
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(content))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"ckpt_path": f"{run.absolute()}/checkpoints/best.ckpt", "protocol": {"name": protocol}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_curve(run: Path, values: Sequence[float], *, steps: int = 10) -> None:
    """`metrics.csv` with a training row at every step and a validation of these top-1 after every `steps`."""
    lines = ["step,epoch,train/loss,train/top1,lr,val/top1,val/loss"]
    for epoch, value in enumerate(values):
        lines += [f"{epoch * steps + k + 1},{epoch},{3 - value - 0.01 * k},{value},0.1,," for k in range(steps)]
        lines.append(f"{(epoch + 1) * steps},{epoch},,,,{value},{3 - value}")
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")


def predictions(seed: int, right: float, *, videos: int = 40, classes: int = 8) -> Predictions:
    """Scores of one view a video, of which about the fraction `right` is right, on the same videos for every seed."""
    rng = np.random.default_rng(seed)
    targets = np.arange(videos) % classes
    scores = rng.random((videos, classes)).astype(np.float32)
    scores[np.arange(videos), targets] += (rng.random(videos) < right).astype(np.float32)
    names = tuple(f"class {k}" for k in range(classes))
    return Predictions("multiclass", names, tuple(f"video{k}" for k in range(videos)), targets, scores[:, None])


TABLE2A: Mapping[str, tuple[float, ...]] = {
    "table2a_baseline": (0.718, 0.716, 0.723),
    "table2a_gaussian": (0.725, 0.731, 0.722),
    "table2a_embedded_gaussian": (0.727,),
}
"""Top-1 by experiment and seed."""


def write_table2a(folder: Path) -> Iterator[Path]:
    """Seven finished runs with curves, and one each that failed, was lost, is older, and lacks its metric."""
    for experiment, values in TABLE2A.items():
        for seed, value in enumerate(values):
            costs = {"parameters": 24_327_632 + 2_000_000 * (experiment != "table2a_baseline"), "gmacs": 20.4}
            metrics = {"val/top1": value, "val/top5": value + 0.18}
            costs["seconds"] = 1000.0 + 10 * seed
            run = write_run(
                folder / f"experiment={experiment},seed={seed}", experiment, seed=seed, metrics=metrics, **costs
            )
            write_curve(run, [value / 2, value / 1.2, value])
            yield run
    metrics = {"val/top1": 0.1, "val/top5": 0.2}
    yield write_run(
        folder / "failed", "table2a_dot_product", status="failed", reason="UserError: no space", metrics=metrics
    )
    yield write_run(folder / "lost", "table2a_dot_product", seed=1, status="running", metrics=metrics)
    yield write_run(folder / "older", "table2a_gaussian", age=60, metrics=metrics)
    yield write_run(folder / "without", "table2a_concatenation", metrics={"val/top5": 0.9})
