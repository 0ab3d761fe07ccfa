"""What it costs to write a checkpoint that cannot be lost, against Lightning's own way, pair by pair.

    python benchmarks/checkpoint_writing.py [--megabytes 283] [--pairs 7] [--folder FOLDER ...]

Every pair writes the same content over an earlier file in the same folder, once each way, in turns and from a disk at
rest. Lightning's way packs the file in memory, writes it to the system's temporary folder and moves it; ours writes
beside the place, waits for the disk, reads back and keeps the one before. `without sync` is ours on a disk that takes
everything at once: the share of the disk in the figure. benchmarks/results/checkpoint_writing.json has the table.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from measure import machine, write_json

from nlnet.checkpoints.files import read_file
from nlnet.runs.durability.checkpoint_io import DurableCheckpointIO

WAYS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "lightning": lambda content, path: TorchCheckpointIO().save_checkpoint(content, path),
    "durable": lambda content, path: DURABLE.save_checkpoint(content, path),
    "without sync": lambda content, path: _without_sync(content, path),
}
DURABLE = DurableCheckpointIO()


def _without_sync(content: dict[str, Any], path: Path) -> None:
    with mock.patch("os.fsync"):
        DURABLE.save_checkpoint(content, path)


def measured(folder: Path, content: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Median seconds of each way and the median of the ratios within the pairs."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for pair in range(pairs + 1):
            for way, write in WAYS.items():
                path = Path(place) / way.replace(" ", "-") / "last.ckpt"
                path.parent.mkdir(exist_ok=True)
                os.sync()  # or each would wait for what the one before has left in memory
                begin = time.perf_counter()
                write(content, path)
                if pair:  # the first one makes the files that the others replace
                    seconds[way].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        torch.load(path, weights_only=True)
        plain = time.perf_counter() - begin
        begin = time.perf_counter()
        read_file(path)
        checked = time.perf_counter() - begin
    ratios = {
        way: median(mine / base for mine, base in zip(seconds[way], seconds["lightning"], strict=True)) for way in WAYS
    }
    return {
        "seconds": {way: round(median(values), 3) for way, values in seconds.items()},
        "ratio": {way: round(ratio, 2) for way, ratio in ratios.items()},
        "read_seconds": {"torch.load": round(plain, 3), "checked": round(checked, 3)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=283)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--folder", type=Path, nargs="+", default=[Path.cwd(), Path("/dev/shm")])
    arguments = parser.parse_args()
    count = arguments.megabytes * 10**6 // 4 // 100
    content = {"state_dict": {f"layer{k}": torch.randn(count) for k in range(100)}, "global_step": 1}
    results = {}
    print(f"{'folder':<24}{'way':<14}{'s':>8}{'ratio':>8}")
    for folder in arguments.folder:
        kind = "memory" if str(folder).startswith("/dev/shm") else "disk"
        results[kind] = measured(folder, content, arguments.pairs)
        for way, seconds in results[kind]["seconds"].items():
            print(f"{folder!s:<24}{way:<14}{seconds:8.3f}{results[kind]['ratio'][way]:8.2f}")
        print(f"{'':<24}read {results[kind]['read_seconds']}")
    write_json("checkpoint_writing", {"machine": machine(), "megabytes": arguments.megabytes, **results})


if __name__ == "__main__":
    main()
