"""Seconds from the start of `train.py` to its first new step, and the memory of the manifest in every loader process.

A new run, and one that is continued at the beginning, in the middle and near the end of an epoch, with data sets of
10^3 to 10^7 samples. The demo network trains on them with two loader processes. The manifests are synthetic: each of
their samples is one of a few real clips, so only the list is large. The position is written into a checkpoint of a run
that was stopped after its first step. The first new step is the first new row of metrics.csv, and a run is killed then.
A round runs all of these after one another. Of each time the median of the rounds is given, and of the processor's
seconds in the training process up to then, which other work on the machine does not change. Memory is what the loader
processes have beyond those of the smallest set: all of it (`rss`), and what is theirs alone (`own`).

    python benchmarks/resume_time.py [--sizes 1000 1000000 10000000] [--rounds 3]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import machine, write_json

from nlnet.data.shards.columns.rows import FIELDS
from nlnet.data.shards.find import load_manifest
from nlnet.data.synthetic.clips import build

ROOT = Path(__file__).resolve().parents[1]
POSITIONS = (0.0, 0.5, 0.99)
QUIET = ("callbacks=none", "logger=none", "extras.threads=1")
PER_SHARD, BATCH, WORKERS = 1000, 16, 2
RAISED = {"SAMPLES": 10**8, "MANIFEST_BYTES": 2 * 10**9}
POLL_S, LONGEST_S = 0.01, 600
LARGE = 10**6  # samples up to which the limits hold: 3 s, 300 MB


def write_set(folder: Path, samples: int) -> Path:
    """Shards of so many samples, which are all links to one shard of real clips."""
    build(folder, "charades", {"train": 32, "val": 32})
    real = load_manifest(str(folder), "charades", "train")
    tar = folder.resolve() / real.shards[0].name
    rows = [[getattr(sample, name) for name in FIELDS] for sample in real.samples if sample.shard == 0]
    shards = []
    for k in range(-(-samples // PER_SHARD)):
        name = f"charades-train-{k + 10**6:07d}.tar"
        (folder / name).symlink_to(tar)
        shards.append([name, min(PER_SHARD, samples - k * PER_SHARD), real.shards[0].bytes, real.shards[0].sha256])
    head, _, _ = real.to_json().partition('"samples": [\n')[0].partition('"shards": ')
    path = folder / "charades-train-manifest.json"
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{head}"shards": {json.dumps(shards)},\n"sample": {json.dumps(list(FIELDS))},\n"samples": [\n')
        file.writelines(_lines(rows, samples))
        file.write("\n]\n}\n")
    return folder


def _lines(rows: list[list[Any]], samples: int) -> Iterator[str]:
    tails = [json.dumps(row[2:], separators=(",", ":"))[1:] for row in rows]
    for k in range(samples):
        yield f'{"" if k == 0 else f",{chr(10)}"}["clip{k:09d}",{k // PER_SHARD},{tails[k % len(tails)]}'


class Training:
    """A training of the demo network as a process; it is killed at the end of the block."""

    def __init__(self, shards: Path, run: Path, *words: str) -> None:
        self.metrics, self.before = run / "metrics.csv", _rows(run / "metrics.csv")
        raised = {f"NLNET_MAX_{name}": str(most) for name, most in RAISED.items()}
        self._log = (run.parent / f"{run.name}.log").open("w")
        self.began = time.perf_counter()
        data = {
            "shards": shards,
            "batch_size": BATCH,
            "eval_batch_size": BATCH,
            "num_workers": WORKERS,
            "val_split": "val",
        }
        settings = [f"paths.run_dir={run}", *(f"data.{name}={value}" for name, value in data.items()), *words]
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "src" / "train.py", "experiment=charades_nl", "size=demo", *QUIET, *settings],
            env={**os.environ, **raised},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def first_step(self) -> tuple[float, float]:
        """Seconds until the first new row, and of the processor."""
        while _rows(self.metrics) <= self.before:
            self._check()
            time.sleep(POLL_S)
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return time.perf_counter() - self.began, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def wait_for(self, path: Path) -> None:
        """Until the file is there."""
        while not path.exists():
            self._check()
            time.sleep(POLL_S)

    def memory(self) -> dict[str, float]:
        """Megabytes of a loader process, the mean of all: in memory, and nobody else's."""
        workers = [_megabytes(worker) for server in _children(self.process.pid) for worker in _children(server)]
        return {name: sum(worker[name] for worker in workers) / len(workers) for name in ("rss", "own")}

    def _check(self) -> None:
        if self.process.poll() is not None or time.perf_counter() - self.began > LONGEST_S:
            raise SystemExit(Path(self._log.name).read_text(encoding="utf-8")[-2000:])


def _rows(path: Path) -> int:
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _megabytes(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kb = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return {"rss": kb["Rss"] / 1000, "own": (kb["Private_Clean"] + kb["Private_Dirty"]) / 1000}


def stopped_run(shards: Path, run: Path, batches: int) -> dict[float, Path]:
    """Copies of a run that has made one step, by the position in its epoch that their checkpoints say."""
    with Training(shards, run, "extras.checkpoint_every_n_steps=1") as training:
        training.wait_for(run / "checkpoints" / "last.ckpt")
    copies = {}
    for position in POSITIONS:
        t = max(1, int(position * batches))
        copy = copies[position] = run.parent / f"{run.name}-{position}"
        shutil.copytree(run, copy)
        last = copy / "checkpoints" / "last.ckpt"
        checkpoint = torch.load(last, weights_only=True)
        loops = checkpoint["loops"]["fit_loop"]
        loops["epoch_loop.batch_progress"]["current"] = dict.fromkeys(("ready", "started", "processed", "completed"), t)
        loops["state_dict"]["combined_loader"] = [{"epoch": 0, "t": t}]
        torch.save(checkpoint, last)
    return copies


def measure(folder: Path, samples: int, rounds: int) -> dict[str, Any]:
    """Seconds and memory with a set of so many samples."""
    shards = write_set(folder / f"set-{samples}", samples)
    batches = samples // BATCH
    copies = stopped_run(shards, folder / f"stopped-{samples}", batches)
    seconds: dict[str, list[tuple[float, float]]] = {"new": [], **{f"at {position:g}": [] for position in POSITIONS}}
    memory: list[dict[str, float]] = []
    for number in range(rounds):
        with Training(shards, folder / f"new-{samples}-{number}") as training:
            seconds["new"].append(training.first_step())
            memory.append(training.memory())
        for position, copy in copies.items():
            run = folder / f"again-{samples}-{number}-{position}"
            shutil.copytree(copy, run)
            with Training(shards, run, "ckpt_path=last") as training:
                seconds[f"at {position:g}"].append(training.first_step())
    wall, cpu = ({name: round(median(v[k] for v in values), 2) for name, values in seconds.items()} for k in (0, 1))
    manifest = shards / "charades-train-manifest.json"
    return {
        "samples": samples,
        "manifest_megabytes": round(manifest.stat().st_size / 1e6, 1),
        "seconds": wall,
        "cpu_seconds": cpu,
        "most_over_new": round(max(wall.values()) - wall["new"], 2),
        "worker_megabytes": {name: round(median(m[name] for m in memory), 1) for name in ("rss", "own")},
    }


def table(report: dict[str, Any]) -> str:
    """The table in docs/scale.md: seconds of the processor, and memory."""
    heads = ["clips", "new run", *(f"continued at {position:.0%}" for position in POSITIONS)]
    lines = [f"| {' | '.join([*heads, 'more in a loader process', 'of it its own'])} |", "| --- " * 7 + "|"]
    for found in report["sets"]:
        seconds = " | ".join(f"{value:.1f} s" for value in found["cpu_seconds"].values())
        memory = " | ".join(f"{value:,.0f} MB" for value in found["manifest_in_a_worker"].values())
        lines.append(f"| {found['samples']:,} | {seconds} | {memory} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for samples in arguments.sizes:
            results.append(measure(Path(folder), samples, arguments.rounds))
            found, least = results[-1]["worker_megabytes"], results[0]["worker_megabytes"]
            results[-1]["manifest_in_a_worker"] = {name: round(found[name] - least[name], 1) for name in found}
            print(json.dumps(results[-1]), flush=True)
    report = {"machine": machine(), "batch": BATCH, "workers": WORKERS, "rounds": arguments.rounds, "sets": results}
    print(write_json("resume_time", report))
    return any(r["samples"] <= LARGE and (r["most_over_new"] > 3 or _manifest_megabytes(r) > 300) for r in results)


def _manifest_megabytes(result: dict[str, Any]) -> float:
    return max(result["manifest_in_a_worker"].values())


if __name__ == "__main__":
    sys.exit(main())
