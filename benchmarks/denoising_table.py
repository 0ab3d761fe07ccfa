"""Small NLRN and DnCNN, trained for the same processor time, against filters without training, at sigma 25.

Each network is `python src/train.py experiment=denoise_NAME size=demo`, on the built-in training photographs, one
thread each, both at a time. How many steps it gets is found by timing some: as many as fit into --seconds of processor
time. Then both are evaluated on the photographs that are held out, and the filters on the same noisy images. Prints a
Markdown table of PSNR in dB, for each photograph and their mean, and writes it as JSON.

    python benchmarks/denoising_table.py [--seconds 400] [--out benchmarks/results/denoising_table.json]

Needs nlnet[restoration].
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from measure import machine

from nlnet.config.resolve import load
from nlnet.runs.build import make_data, make_task

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("nlrn", "dncnn")
COMMON = ["size=demo", "callbacks.progress=null", "logger=null", "extras.checkpoint_every_n_steps=100000"]
WARM, TIMED = 5, 20  # steps


def step_seconds(name: str) -> float:
    """Processor seconds of a training step, its data included."""
    torch.set_num_threads(1)
    cfg = load([f"experiment=denoise_{name}", *COMMON])
    data = make_data(cfg)
    net = make_task(cfg, data).net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    start = 0.0
    for k, batch in enumerate(data.train_dataloader()):
        if k == WARM:
            start = time.process_time()
        if k == WARM + TIMED:
            break
        optimizer.zero_grad()
        (255 * (net(batch["inputs"]) - batch["targets"])).square().mean().backward()
        optimizer.step()
    return (time.process_time() - start) / TIMED  # the batch that comes after the last step is one, too


def train(name: str, steps: int, folder: Path) -> subprocess.Popen[bytes]:
    words = [f"experiment=denoise_{name}", *COMMON, f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
    command = [sys.executable, str(ROOT / "src" / "train.py"), *words, f"paths.run_dir={folder}"]
    with open(f"{folder}.log", "wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"RESTORATION_IMAGES": ""}, stdout=log, stderr=log)


def scores(folder: Path, baselines: str, logs: Path) -> dict[str, dict[str, float]]:
    """PSNR by method and photograph."""
    words = [f"ckpt_path={folder}/checkpoints/last.ckpt", f"task.baselines=[{baselines}]", f"paths.log_dir={logs}"]
    subprocess.run([sys.executable, str(ROOT / "src" / "eval.py"), *words], check=True, cwd=ROOT)
    (written,) = logs.glob("eval/runs/*/images.csv")
    found: dict[str, dict[str, float]] = {}
    with open(written, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["method"], {})[row["image"]] = float(row["PSNR"])
    return found


def measured(seconds: float, folder: Path) -> dict[str, Any]:
    steps = {name: round(seconds / step_seconds(name)) for name in NETWORKS}
    print(f"steps in {seconds:g} s: {steps}", flush=True)
    began = time.monotonic()
    running = {name: train(name, steps[name], folder / name) for name in NETWORKS}
    spent: dict[str, float] = {}
    for _ in running:  # whichever ends first
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        pid, status = os.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        name = next(name for name, process in running.items() if process.pid == pid)
        if status:
            raise SystemExit(f"{name}: {(folder / f'{name}.log').read_text()}")
        spent[name] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    wall = round(time.monotonic() - began, 1)
    table = {"noisy": {}, "nonlocal_means": {}, "wavelets": {}, "dncnn": {}, "nlrn": {}}
    for name in NETWORKS:
        found = scores(folder / name, "nonlocal_means,wavelets" if name == "nlrn" else "", folder / f"eval_{name}")
        table[name] = found.pop("network")
        table |= found
    training = {name: {"steps": steps[name], "processor_seconds": spent[name]} for name in NETWORKS}
    return {"machine": machine(), "sigma": 25, "training": training, "training_wall_seconds": wall, "psnr": table}


def markdown(table: dict[str, dict[str, float]]) -> str:
    photographs = sorted(table["nlrn"])
    lines = [f"| method | {' | '.join(Path(name).stem for name in photographs)} | mean |", "| --- |" + " ---: |" * 5]
    for method, found in table.items():
        cells = [f"{found[name]:.2f}" for name in photographs]
        lines.append(f"| {method} | {' | '.join(cells)} | {mean(found.values()):.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=400, help="processor time of each training")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "denoising_table.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measured(arguments.seconds, Path(folder))
    print(markdown(result["psnr"]))
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
