"""What the whole loop of `train.py` costs over a bare PyTorch loop of the same step.

The step is forward, loss, backward and optimizer on batches that lie in memory: of the demo network, and of I3D-NL R50
8x8 with two clips. The whole loop is `nlnet.runs.train.train` with the experiment's own settings: callbacks,
metrics.csv, checks for finite numbers, seeds, resume. The two loops run in turn, round after round. A round's figure is
the median of its steps, each from one batch to the next; the first steps do not count. Beside the seconds stand those
of the processor, which other work on the machine changes less. There is no validation, which the bare loop has not.

    python benchmarks/loop_overhead.py [--only demo i3d_nl_r50_8x8] [--rounds 5] [--threads N] [--profile]

`--profile` prints where the time of the whole loop goes instead.
"""

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from measure import RESULTS, machine, write_json
from omegaconf import DictConfig
from torch import nn

from nlnet.config.resolve import changed, load
from nlnet.data.batches.base import Batch, complete_batch
from nlnet.data.modules.base import DataModule
from nlnet.runs.build import make_task
from nlnet.runs.train import train

WARMUP = 2
UNITS = ("seconds", "cpu_seconds")


@dataclass(frozen=True)
class Case:
    """A network with its settings, the shape of its inputs, the steps of a round, and the overhead that is allowed."""

    words: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    classes: int
    steps: int
    most: float


CASES = {
    "demo": Case(("experiment=charades_nl", "size=demo"), "multilabel", (32, 3, 8, 32, 32), 4, 40, 0.25),
    "i3d_nl_r50_8x8": Case(
        (
            "experiment=kinetics_i3d_nl_8x8",
            "model.norm=batch",
            "trainer=cpu",
            "init.checkpoint=null",
            "init.images=null",
            "callbacks.precise_bn=null",
        ),
        "multiclass",
        (2, 3, 8, 224, 224),
        400,
        3,
        0.05,
    ),
}


class Stopwatch:
    """The same batch again and again, and the time of each step: from one to the next."""

    def __init__(self, batch: Batch, steps: int) -> None:
        self.batch, self.steps = batch, steps
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def __len__(self) -> int:
        return self.steps + 1

    def __iter__(self) -> Iterator[Batch]:
        self.wall, self.cpu = [], []
        for _ in range(len(self)):
            self.wall.append(time.perf_counter())
            self.cpu.append(time.process_time())
            yield dict(self.batch)

    def seconds(self) -> tuple[float, float]:
        """The median step: seconds, and seconds of the processor."""
        wall, cpu = ([b - a for a, b in pairwise(times[WARMUP:])] for times in (self.wall, self.cpu))
        return median(wall), median(cpu)


class InMemory(DataModule):
    """Random clips of the shape of a case."""

    def __init__(self, name: str) -> None:
        super().__init__()
        case = CASES[name]
        self.kind, self.classes = case.kind, [f"c{k}" for k in range(case.classes)]
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(case.shape, generator=generator)
        labels = torch.randint(case.classes, (len(inputs),), generator=generator)
        targets = labels if case.kind == "multiclass" else F.one_hot(labels, case.classes).float()
        batch = complete_batch({"inputs": inputs, "targets": targets}, torch.arange(len(inputs)))
        self.stopwatch = Stopwatch(batch, WARMUP + case.steps)

    def train_dataloader(self) -> Stopwatch:
        return self.stopwatch

    def val_dataloader(self) -> Stopwatch:
        return self.stopwatch


def configuration(name: str, folder: str) -> DictConfig:
    """The settings of a run of the case: those of its experiment, on the batch in memory, one pass."""
    steps = WARMUP + CASES[name].steps + 1
    lengths = [f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "trainer.limit_val_batches=0"]
    cfg = load([*CASES[name].words, *lengths, f"data.shards={folder}", f"paths.run_dir={folder}/run"])
    data = {"_target_": "loop_overhead.InMemory", "name": name}
    return changed(cfg, {"data": data, "extras.allow_targets": ["loop_overhead"]})


def whole(name: str) -> tuple[float, float]:
    """A step of the whole loop."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        _, objects = train(configuration(name, folder))
        found: tuple[float, float] = objects["data"].stopwatch.seconds()
        return found


def bare(name: str) -> tuple[float, float]:
    """A step of the bare loop: the same network, and the optimizer that its task would make."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = configuration(name, folder)
    data = InMemory(name)
    net: nn.Module = make_task(cfg, data).net.train()
    optimizer = optimizer_of(cfg, net)
    loss_of: Any = F.cross_entropy if data.kind == "multiclass" else F.binary_cross_entropy_with_logits
    for batch in data.stopwatch:
        optimizer.zero_grad(set_to_none=True)
        loss_of(net(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
    return data.stopwatch.seconds()


def optimizer_of(cfg: DictConfig, net: nn.Module) -> torch.optim.Optimizer:
    """PyTorch's own, with the same settings for all parameters."""
    settings = dict(cfg.optim.optimizer)
    name = settings.pop("_target_").rpartition(".")[2]
    settings.pop("_partial_", None)
    made: torch.optim.Optimizer = getattr(torch.optim, name)(net.parameters(), **settings)
    return made


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Both loops in turn."""
    pairs = [(bare(name), whole(name)) if k % 2 else (whole(name), bare(name))[::-1] for k in range(rounds)]
    result: dict[str, Any] = {"most": CASES[name].most, "rounds": rounds, "threads": torch.get_num_threads()}
    for k, unit in enumerate(UNITS):
        without, with_loop = ([pair[which][k] for pair in pairs] for which in (0, 1))
        ratios = [b / a - 1 for a, b in zip(without, with_loop, strict=True)]
        result[unit] = {"bare": median(without), "whole": median(with_loop), "overhead": median(ratios)}
    return result


def profile(name: str) -> None:
    """Where the whole loop spends its time, by function, with what it calls."""
    profiler = cProfile.Profile()
    profiler.runcall(whole, name)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(70)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.profile:
        for name in arguments.only:
            profile(name)
        return 0
    results = {name: compare(name, arguments.rounds) for name in arguments.only}
    for name, found in results.items():
        for unit in UNITS:
            f = found[unit]
            print(f"{name}: {unit} {f['bare']:.4g} -> {f['whole']:.4g}, {f['overhead']:+.1%} of {found['most']:+.0%}")
    path = RESULTS / "loop_overhead.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}  # of the other networks
    print(write_json("loop_overhead", kept | {"machine": machine()} | results))
    return int(any(found["seconds"]["overhead"] > found["most"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
