"""The losses of the demo's first 50 steps on a CPU in float32 are those that were stored.

Decoding, the order of the clips, augmentation, the initial weights, the network, loss, optimizer and schedule all have
a part in them. `python tests/cli/test_golden_curve.py` stores them anew, after a change that is meant to change them.

A rounding error grows: batch norm and AdamW make of 1e-7 in the first loss 1e-3 after ten steps, and a few percent
after thirty. So the first steps tell of small changes and the later ones of large ones. The tolerances are two to three
times the largest difference between runs with one and two threads, without oneDNN, without vector instructions
(ATEN_CPU_CAPABILITY=default), and with channels-last kernels and the fused optimizer: 3e-7, 6e-5, 2e-4 in the first
three losses, 5e-3 up to the tenth, and 7e-2 after that; of means over ten steps 4e-4, 5e-3 and 3e-2. A learning rate
that is 5 % higher differs by 1e-3 in the second loss. A weight decay that is 20 % lower does not show.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nlnet.config.resolve import load
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.train import train

GOLDEN = Path(__file__).with_name("golden_curve.json")
STEPS = 50
SINGLE = {1: 1e-6, 2: 2e-4, 3: 6e-4, 5: 2e-3, 10: 1.2e-2, STEPS: 0.15}  # up to this step, by how much a loss may differ
MEANS = [1.2e-3, 1.5e-2, 6e-2, 6e-2, 6e-2]  # of ten steps each


def curve(shards: Path, folder: Path) -> list[float]:
    words = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "callbacks=none"]
    words += [f"data.shards={shards}", f"paths.run_dir={folder}", f"trainer.max_steps={STEPS}", "trainer.max_epochs=-1"]
    words += ["trainer.limit_val_batches=0", "trainer.log_every_n_steps=1", "extras.threads=1"]
    train(load(words))
    return [float(row["train/loss"]) for row in read_rows(folder / "metrics.csv") if row["train/loss"]]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_fifty_steps_of_the_demo(charades_shards: Path, tmp_path: Path) -> None:
    expected, found = json.loads(GOLDEN.read_text()), curve(charades_shards, tmp_path)
    assert len(found) == len(expected) == STEPS
    differing = []
    for step, (loss, golden) in enumerate(zip(found, expected, strict=True), 1):
        tolerance = next(tolerance for last, tolerance in SINGLE.items() if step <= last)
        if abs(loss / golden - 1) > tolerance:
            differing.append(f"step {step}: {loss:.7f}, stored {golden:.7f}")
    assert differing == []
    for ten, tolerance in enumerate(MEANS):
        part = slice(10 * ten, 10 * ten + 10)
        assert sum(found[part]) == pytest.approx(sum(expected[part]), rel=tolerance), f"mean of steps {part}"


if __name__ == "__main__":
    from helpers.shards import write_tiny

    with tempfile.TemporaryDirectory() as place:
        GOLDEN.write_text(json.dumps(curve(write_tiny(Path(place, "shards")), Path(place, "run")), indent=0) + "\n")
