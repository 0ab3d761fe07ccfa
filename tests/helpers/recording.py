"""A callback that writes down what every step trained on, and what came of it."""

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback


def recorder(folder: Path, pause_s: float = 0.0) -> list[str]:
    """The words of a command line that record a run in `folder`; see `Recorder`."""
    words = [f"+callbacks.recorder.{name}={value}" for name, value in (("folder", folder), ("pause_s", pause_s))]
    return ["extras.allow_targets=[helpers]", "+callbacks.recorder._target_=helpers.recording.Recorder", *words]


class Recorder(Callback):
    """A line for every part of a batch in `folder/rank-R`: step, part, samples, loss. It then waits for `pause_s`."""

    def __init__(self, folder: str, pause_s: float = 0.0) -> None:
        self.folder, self.pause_s = Path(folder), pause_s

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, part = divmod(trainer.fit_loop.epoch_loop.total_batch_idx, trainer.accumulate_grad_batches)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        line = {
            "step": step,
            "part": part * trainer.world_size + trainer.global_rank,
            "samples": batch["indices"].tolist(),
            "loss": loss,
            "time": time.time(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"rank-{trainer.global_rank}", "a") as file:
            file.write(f"{json.dumps(line)}\n")
        time.sleep(self.pause_s)


def recorded(folder: Path) -> dict[int, list[tuple[list[int], float]]]:
    """By step: the samples and the loss of each of its parts, as of the last time that it was trained."""
    lines = [json.loads(line) for file in folder.glob("rank-*") for line in file.read_text().splitlines()]
    latest: dict[int, dict[int, Any]] = {}
    for line in sorted(lines, key=lambda line: line["time"]):
        parts = latest.setdefault(line["step"], {})
        if len(line["samples"]) != len(next(iter(parts.values()), (line["samples"],))[0]):
            parts.clear()  # trained again, in other parts
        parts[line["part"]] = (line["samples"], line["loss"])
    return {step: [parts[k] for k in sorted(parts)] for step, parts in sorted(latest.items())}


def samples_of(steps: dict[int, list[tuple[list[int], float]]]) -> dict[int, list[int]]:
    """By step: its samples in order."""
    return {step: [sample for samples, _ in parts for sample in samples] for step, parts in steps.items()}


def losses_of(steps: dict[int, list[tuple[list[int], float]]]) -> dict[int, float]:
    """By step: the mean loss of its parts."""
    return {step: sum(loss for _, loss in parts) / len(parts) for step, parts in steps.items()}
