"""A run that goes on from before its best checkpoint knows of it: nothing worse takes its place."""

import pytest
import torch

from nlnet.config.resolve import load
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.run_dir import read_record
from nlnet.runs.train import train

# Two steps an epoch.
BASE = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "callbacks.progress=null",
        "task.monitor=val/loss", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
        "extras.checkpoint_every_n_steps=3", "optim/schedule=constant"]  # fmt: skip


@pytest.fixture
def words(charades_shards):
    return [*BASE, f"data.shards={charades_shards}"]


def losses(folder):
    return {int(row["step"]): float(row["val/loss"]) for row in read_rows(folder / "metrics.csv") if row["val/loss"]}


def test_a_best_that_is_newer_than_the_checkpoint_that_goes_on(words, tmp_path):
    train(load([*words, f"paths.run_dir={tmp_path}", "trainer.max_epochs=2"]))
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "last.ckpt").unlink()  # as a kill after the validation leaves it: what goes on is step 3
    first, best = losses(tmp_path), (checkpoints / "best.ckpt").read_bytes()
    more = ["ckpt_path=last", "trainer.max_epochs=2", "optim.optimizer.lr=0.0044"]
    figures, _ = train(load([*words, f"paths.run_dir={tmp_path}", *more]))
    assert first[4] < losses(tmp_path)[4] < first[2]  # worse than the best, and better than what step 3 knew of
    assert figures["best"] == read_record(tmp_path)["best"] == first[4]
    assert (checkpoints / "best.ckpt").read_bytes() == best


@pytest.mark.full
def test_a_best_of_the_validation_at_the_end_in_a_folder_that_was_moved(words, tmp_path):
    """The last checkpoint is written before that validation, and names the folder in which it was."""
    train(load([*words, f"paths.run_dir={tmp_path}/old", "trainer.max_steps=3"]))
    folder = (tmp_path / "old").rename(tmp_path / "new")
    first, best = losses(folder), (folder / "checkpoints" / "best.ckpt").read_bytes()
    assert first[3] < first[2]
    states = [torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")]
    assert all(torch.equal(value, states[1]["state_dict"][key]) for key, value in states[0]["state_dict"].items())
    more = ["ckpt_path=last", "trainer.max_steps=4", "optim.optimizer.lr=0.5"]
    figures, _ = train(load([*words, f"paths.run_dir={folder}", *more]))
    assert losses(folder)[4] > first[3]
    assert figures["best"] == first[3]
    assert (folder / "checkpoints" / "best.ckpt").read_bytes() == best
