"""How soon something happens: seconds from a command to its answer, each in a fresh process.

`help` and `mistake` are `nlnet-train --help` and a setting that does not exist; `first_step` is the start of the demo's
first training step, with its loader processes and the built-in clips already made; `import` is what `import nlnet` and
its public names cost beyond `import torch`. Of each the median of the rounds, and of the first step also the
processor's seconds in the training process.

    python benchmarks/start_up.py [--rounds 5]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
from measure import machine, write_json

TRAIN = [sys.executable, str(Path(__file__).resolve().parents[1] / "src" / "train.py")]
IMPORT = (
    "import time, torch; start = time.perf_counter(); import nlnet; nlnet.ops, nlnet.NonLocalBlock, nlnet.build_model;"
    " print(time.perf_counter() - start)"
)
LIMITS = {"help": 1.5, "mistake": 1.5, "first_step": 8.0, "import": 0.3}


class FirstStep(pl.Callback):
    """Says when the first training step begins: seconds since the epoch, and the processor's of this process."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == 0:
            print("FIRST", time.time(), time.process_time(), flush=True)


def seconds_of(words: list[str], code: int) -> float:
    """How long `train.py` with these words takes. Raises AssertionError where it ends with another exit code."""
    begin = time.perf_counter()
    done = subprocess.run([*TRAIN, *words], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return time.perf_counter() - begin


def first_step(folder: Path) -> tuple[float, float]:
    """(seconds, the processor's) up to the demo's first training step."""
    words = ["experiment=charades_nl", "size=demo", "trainer.max_steps=1", "trainer.val_check_interval=null"]
    words += ["+callbacks.first._target_=start_up.FirstStep", "extras.allow_targets=[start_up]"]
    words += ["trainer.limit_val_batches=0", f"paths.log_dir={folder}"]
    here = str(Path(__file__).parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]), "CHARADES_SHARDS": ""}
    begin = time.time()
    done = subprocess.run([*TRAIN, *words], capture_output=True, text=True, env=env)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FIRST"))
    _, at, processor = line.split()
    return float(at) - begin, float(processor)


def import_seconds() -> float:
    done = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure(rounds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {name: [] for name in (*LIMITS, "first_step_processor")}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            step, processor = first_step(Path(folder))
            one = {
                "help": seconds_of(["--help"], 0),
                "mistake": seconds_of(["experiment=charades_nl", "model.nope=1"], 1),
                "first_step": step,
                "import": import_seconds(),
                "first_step_processor": processor,
            }
            for name, value in one.items() if number else ():  # the first round writes bytecode and built-in clips
                found[name].append(round(value, 3))
    return {name: {"median": median(values), "all": values} for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = measure(rounds)
    for name, limit in LIMITS.items():
        print(f"{name:12} {found[name]['median']:6.2f} s  (limit {limit} s)")
    write_json("start_up", {"machine": machine(), "seconds": found, "limits": LIMITS})


if __name__ == "__main__":
    main()
