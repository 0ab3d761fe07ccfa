"""Runs that are killed with real signals and resumed, against the run that never was."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch

from helpers.processes import context, run_process, train_command
from helpers.shards import write_tiny
from helpers.signalling import killer
from nlnet.checkpoints.files import read_file
from nlnet.runs.callbacks.metrics_csv import read_rows

KILL, TERM, INT, USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("shards"))


def settings(shards, logs, accumulate, *more):
    """34 training clips in batches of 8: 4 batches an epoch and 2 clips left out; 20 validation clips in 3 batches."""
    return [
        "experiment=charades_nl",
        "size=demo",
        f"data.shards={shards}",
        f"paths.log_dir={logs}",
        "data.batch_size=8",
        "data.eval_batch_size=8",
        "data.num_workers=0",
        "trainer.max_epochs=3",
        f"trainer.accumulate_grad_batches={accumulate}",
        "extras.checkpoint_every_n_steps=1",
        "callbacks.progress=null",
        *more,
    ]


def run_dir(logs):
    (folder,) = (logs / "train" / "runs").iterdir()
    return folder


def outcome(logs):
    folder = run_dir(logs)
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return read_rows(folder / "metrics.csv"), checkpoint


@pytest.fixture(scope="module")
def uninterrupted(shards, tmp_path_factory):
    """The rows of metrics.csv and the last checkpoint of undisturbed runs, by accumulation."""
    results = {}

    def get(accumulate, *more):
        key = (accumulate, *more)
        if key not in results:
            logs = tmp_path_factory.mktemp("reference")
            assert run_process(train_command, settings(shards, logs, accumulate, *more), f"{logs}.log") == 0
            results[key] = outcome(logs)
        return results[key]

    return get


QUICK = [
    ("batch_start", 6, KILL, 1, []),
    ("validation", 5, INT, 1, []),
    ("saving", 6, KILL, 1, []),
]
MOMENTS = [
    (moment, count, number, accumulate, [])
    for moment, counts in (("batch_start", (1, 4, 7)), ("inside_step", (3, 4, 8)), ("validation", (1, 3, 6)))
    for count in counts
    for number in (KILL, TERM, INT)
    for accumulate in (1, 2)
]
WHILE_SAVING = [("saving", count, KILL, 1, []) for count in range(2, 17)]  # all that such a run has
IN_A_VALIDATION = [("validation", 2, KILL, 2, [])]
WITH_WORKERS = [("inside_step", 5, KILL, 1, ["data.num_workers=2"]), ("validation", 4, TERM, 1, ["data.num_workers=2"])]
WITHIN_AN_EPOCH = [("validation", n, s, 1, ["trainer.val_check_interval=2"]) for n in (2, 5) for s in (KILL, TERM)]
OF_A_SCHEDULER = [
    (moment, count, number, accumulate, [])
    for moment, count, accumulate in (
        ("inside_step", 2, 1),
        ("inside_step", 3, 2),
        ("batch_start", 7, 1),
        ("validation", 4, 1),
        ("validation_end", 2, 1),
        ("saving", 3, 1),
        ("saving", 9, 1),
    )
    for number in (USR1, TERM)
]
AT_THE_LAST_STEP = [("batch_start", 4, TERM, 1, ["trainer.max_steps=4"])]
FULL = [
    pytest.param(*case, marks=pytest.mark.full)
    for case in MOMENTS
    + IN_A_VALIDATION
    + WHILE_SAVING
    + WITH_WORKERS
    + WITHIN_AN_EPOCH
    + OF_A_SCHEDULER
    + AT_THE_LAST_STEP
]


@pytest.mark.parametrize(("moment", "count", "number", "accumulate", "more"), QUICK + FULL)
def test_a_killed_and_resumed_run_repeats_the_uninterrupted_one(
    shards, uninterrupted, tmp_path, moment, count, number, accumulate, more
):
    expected_rows, expected = uninterrupted(accumulate, *more)
    logs = tmp_path / "logs"
    common = settings(shards, logs, accumulate, *more)
    code = run_process(train_command, [*common, *killer(moment, count, number)], str(tmp_path / "killed.log"))
    assert code == (-KILL if number == KILL else 128 + number), (tmp_path / "killed.log").read_text()
    folder = run_dir(logs)
    if (folder / "checkpoints" / "last.ckpt").exists():
        assert run_process(train_command, [*common, "ckpt_path=last"], str(tmp_path / "resumed.log")) == 0, (
            tmp_path / "resumed.log"
        ).read_text()
    else:  # killed before the first step was over: there is nothing to resume, and saying so is an error
        assert (moment, count) in (("batch_start", 1), ("validation", 0))
        assert run_process(train_command, [*common, "ckpt_path=last"], str(tmp_path / "resumed.log")) == 1
        return

    rows, checkpoint = outcome(logs)
    assert rows == expected_rows
    assert list(folder.rglob(".*")) == []  # nothing half-written is left
    assert checkpoint["global_step"] == expected["global_step"]
    assert all(torch.equal(value, checkpoint["state_dict"][name]) for name, value in expected["state_dict"].items())
    assert (
        checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        == (expected["loops"]["fit_loop"]["state_dict"]["combined_loader"])
    )


@pytest.mark.full
def test_a_scheduler_stops_it_at_random_times(shards, uninterrupted, tmp_path):
    """SIGUSR1 and SIGTERM from the start of a process on, ten times and more, over as many runs as that takes: there is
    always something to go on from, and every run ends like the one that nobody stopped."""
    expected_rows, expected = uninterrupted(1)
    logs, rng, stops = tmp_path / "logs", np.random.default_rng(0), []
    common = settings(shards, logs, 1)
    for attempt in range(60):
        started = list(logs.glob("train/runs/*/checkpoints/last.ckpt"))
        for path in started:  # whole, or there would be none
            read_file(path, "ckpt_path=")
        words = [*common, *(["ckpt_path=last"] if started else [])]
        process = context.Process(target=train_command, args=(words, str(tmp_path / f"log.{attempt}")))
        process.start()
        number = (USR1, TERM)[attempt % 2]
        process.join(rng.uniform(0.0, 8.0) if len(stops) < 10 else 120)
        if process.is_alive():
            os.kill(process.pid, number)
            process.join(120)
            stops.append((bool(started), process.exitcode))
        if process.exitcode == 0:
            rows, checkpoint = outcome(logs)
            assert rows == expected_rows
            assert all(
                torch.equal(value, checkpoint["state_dict"][key]) for key, value in expected["state_dict"].items()
            )
            if len(stops) >= 10:
                break
            shutil.rmtree(logs)
            continue
        assert process.exitcode in (-number, 128 + number), (tmp_path / f"log.{attempt}").read_text()
        if not list(logs.glob("train/runs/*/checkpoints/last.ckpt")):
            shutil.rmtree(logs, ignore_errors=True)  # stopped before its first step: nothing is lost
    assert process.exitcode == 0
    assert len(stops) >= 10, stops
    assert any(code > 0 for _, code in stops)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_times_from_outside(shards, uninterrupted, tmp_path, seed):
    """SIGKILL whenever it comes, workers and read-ahead in flight, until the run is through."""
    expected_rows, expected = uninterrupted(1)
    logs = tmp_path / "logs"
    common = settings(shards, logs, 1, "data.num_workers=1")
    rng, longest = np.random.default_rng(seed), 15.0
    for _ in range(30):
        started = list(logs.glob("train/runs/*/checkpoints/last.ckpt"))
        process = context.Process(target=train_command, args=([*common, *(["ckpt_path=last"] if started else [])],))
        process.start()
        process.join(rng.uniform(longest / 3, longest))
        longest *= 1.1  # or a busy machine would never get through
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode == 0:
            break
        if not list(logs.glob("train/runs/*/checkpoints/last.ckpt")):
            shutil.rmtree(logs, ignore_errors=True)  # killed before its first checkpoint: the next one starts anew
    assert process.exitcode == 0
    rows, checkpoint = outcome(logs)
    assert rows == expected_rows
    assert all(torch.equal(value, checkpoint["state_dict"][name]) for name, value in expected["state_dict"].items())
