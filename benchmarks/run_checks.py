"""What the checks of a run cost in the demo: of the steps, and at the start.

    python benchmarks/run_checks.py [--batches 60] [KEY=VALUE ...]

The demo is trained with a clock around every check: of numbers that are none, of what ranks and data are, of the
run's folder. The share is of the time between the first and the last step of the same run, so that a machine that is
busy changes both. benchmarks/results/run_checks.json has the figures.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from measure import machine, write_json
from pytorch_lightning.callbacks import Callback

from nlnet.config.resolve import load
from nlnet.runs import start, train
from nlnet.runs.callbacks.finite import FiniteNumbers
from nlnet.runs.identity.resumed import Identity

seconds: dict[str, float] = defaultdict(float)


def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose time is added to that of `name`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - began

    return call


class Steps(Callback):
    """The time from the first step's beginning to the last one's end."""

    def __init__(self) -> None:
        self.began, self.ended, self.count = 0.0, 0.0, 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if not self.count:
            self.began = time.perf_counter()
            for name in ("step: " + part for part in STEP):
                seconds[name] = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.ended, self.count = time.perf_counter(), self.count + 1


STEP = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=60)
    arguments, words = parser.parse_known_args()
    for name in STEP:
        setattr(FiniteNumbers, name, clocked(f"step: {name}", getattr(FiniteNumbers, name)))
    FiniteNumbers.on_save_checkpoint = clocked("checkpoint: weights", FiniteNumbers.on_save_checkpoint)  # type: ignore[method-assign]
    Identity.on_save_checkpoint = clocked("checkpoint: identity", Identity.on_save_checkpoint)  # type: ignore[method-assign]
    train.agree_first = clocked("start: ranks, data, code", train.agree_first)
    start.RunLock = clocked("start: lock", start.RunLock)  # type: ignore[misc,assignment]
    make_trainer, steps = train.make_trainer, Steps()
    train.make_trainer = lambda cfg, callbacks, io: make_trainer(cfg, [steps, *callbacks], io)
    limits = [f"trainer.limit_train_batches={arguments.batches}", "trainer.max_epochs=1", "callbacks.progress=null"]
    _, objects = train.train(load(["experiment=charades_nl", *limits, *words]))
    began = time.perf_counter()
    objects["data"].fingerprint()
    whole = steps.ended - steps.began
    checks = sum(value for name, value in seconds.items() if name.startswith("step"))
    at_start = sum(value for name, value in seconds.items() if name.startswith("start"))
    figures = {
        "steps": steps.count,
        "seconds of the steps": round(whole, 3),
        "share of the checks": round(checks / whole, 5),
        "seconds at the start": round(at_start, 4),
        "seconds of a fingerprint": round(time.perf_counter() - began, 4),
        "parts": {name: round(value, 5) for name, value in sorted(seconds.items())},
    }
    print(figures)
    write_json("run_checks", {"machine": machine(), **figures})


if __name__ == "__main__":
    main()
