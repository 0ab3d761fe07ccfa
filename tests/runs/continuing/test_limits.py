"""Limits of the trainer x places at which a run is stopped: resumed, it gives what the run without a stop gives."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import timer

from helpers.signalling import killer
from nlnet.config.resolve import load
from nlnet.errors import RunInterrupted
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.train import train

# 34 training clips in batches of 8: 4 batches an epoch; 20 validation clips in 3 batches.
BASE = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.eval_batch_size=8", "data.num_workers=0",
        "trainer.max_epochs=2", "extras.checkpoint_every_n_steps=100", "callbacks.progress=null"]  # fmt: skip

LIMITS = {
    "3 of 4": ["trainer.limit_train_batches=3"],
    "a half": ["trainer.limit_train_batches=0.5"],
    "2, accumulated": ["trainer.limit_train_batches=2", "trainer.accumulate_grad_batches=2"],
    "3, accumulated": ["trainer.limit_train_batches=3", "trainer.accumulate_grad_batches=2"],
    "1 validation batch": ["trainer.limit_val_batches=1"],
    "overfitted": ["+trainer.overfit_batches=3"],
    "validation within": ["trainer.val_check_interval=2"],
    "validation within 3 of 4": ["trainer.val_check_interval=2", "trainer.limit_train_batches=3"],
    "validation by fractions": ["trainer.val_check_interval=0.5"],
    "validation across epochs": ["trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=null"],
    "no validation": ["trainer.limit_val_batches=0"],
    "steps within an epoch": ["trainer.max_epochs=-1", "trainer.max_steps=6"],
    "steps to an epoch's end": ["trainer.max_epochs=-1", "trainer.max_steps=8"],
    "steps of 3 of 4": ["trainer.max_epochs=-1", "trainer.max_steps=7", "trainer.limit_train_batches=3"],
    "an hour": ["+trainer.max_time=00:01:00:00"],
}
QUICK = [
    ("3 of 4", "batch_start", 3),
]
FULL = [
    pytest.param(limit, moment, count, marks=pytest.mark.full)
    for limit in LIMITS
    for moment, most in (("batch_start", 8), ("validation", 4))
    for count in range(1, most + 1)
    if (limit, moment, count) not in QUICK
]


@pytest.fixture(scope="module")
def run(charades_shards, tmp_path_factory):
    """The folder of a finished run with these words; those without a stop are made once."""
    made = {}

    def get(*words, folder=None):
        if folder is None and words in made:
            return made[words]
        place = folder or tmp_path_factory.mktemp("run")
        train(load([*BASE, f"data.shards={charades_shards}", f"paths.run_dir={place}", *words]))
        made.setdefault(words, place)
        return place

    return get


def outcome(folder):
    """Rows of training, rows of validation, weights and position at the end."""
    rows = read_rows(folder / "metrics.csv")
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    position = last["loops"]["fit_loop"]["state_dict"]["combined_loader"], last["global_step"]
    of_training = [row for row in rows if row["train/loss"]]
    return of_training, [row for row in rows if not row["train/loss"]], last["state_dict"], position


@pytest.mark.parametrize(("limit", "moment", "count"), QUICK + FULL)
def test_a_stopped_and_resumed_run_repeats_the_other(run, tmp_path, limit, moment, count):
    words = LIMITS[limit]
    expected = outcome(run(*words))
    try:
        run(*words, *killer(moment, count, signal.SIGTERM), folder=tmp_path)
    except RunInterrupted:
        run(*words, "ckpt_path=last", folder=tmp_path)
    training, validation, weights, position = outcome(tmp_path)
    assert (training, validation, position) == (expected[0], expected[1], expected[3])
    assert all(torch.equal(value, weights[name]) for name, value in expected[2].items())


def test_a_run_stopped_in_its_test_tests_again(run, tmp_path):
    with pytest.raises(RunInterrupted):
        run("test=true", *killer("test", 2, signal.SIGTERM), folder=tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "interrupted"
    run("test=true", "ckpt_path=last", folder=tmp_path)
    whole, again = (json.loads((folder / "summary.json").read_text()) for folder in (run("test=true"), tmp_path))
    assert again["status"] == whole["status"] == "finished"
    of_training = ("train/", "data/", "perf/", "lr")
    assert again["metrics"] == {k: v for k, v in whole["metrics"].items() if not k.startswith(of_training)}
    assert any(name.startswith("test/") for name in again["metrics"])


@pytest.mark.full
@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_a_run_that_its_time_has_stopped_goes_on_as_if_it_had_not(run, tmp_path, monkeypatch, steps):
    """`max_time` ends an epoch where it stands, and validates there; the training after it is the same."""
    calls = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: 0 if next(calls) < steps else 3600)
    monkeypatch.setattr(timer, "time", clock)
    run("+trainer.max_time=00:00:59:00", folder=tmp_path)
    stopped = [int(row["step"]) for row in outcome(tmp_path)[0]]
    assert stopped == list(range(1, len(stopped) + 1))
    assert 0 < len(stopped) < 8
    monkeypatch.undo()
    run("ckpt_path=last", folder=tmp_path)
    expected, again = outcome(run()), outcome(tmp_path)
    assert again[0] == expected[0]
    assert [row for row in again[1] if int(row["step"]) in (4, 8)] == expected[1]
    assert all(torch.equal(value, again[2][name]) for name, value in expected[2].items())
