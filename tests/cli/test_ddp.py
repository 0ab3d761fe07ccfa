"""Two real processes with gloo on the CPU."""

import json
import signal
from pathlib import Path

import pytest
import torch

from helpers.processes import run_ranks, train_rank
from nlnet.runs.callbacks.metrics_csv import read_rows


def settings(shards, logs):
    return [
        "experiment=charades_nl",
        "size=demo",
        "trainer=ddp_sim",
        f"data.shards={shards}",
        f"paths.log_dir={logs}",
        "data.batch_size=8",
        "data.eval_batch_size=6",
        "data.num_workers=0",
        "trainer.max_epochs=2",
        "extras.checkpoint_every_n_steps=2",
        "callbacks.progress=null",
    ]


def outcome(logs):
    (run_dir,) = {path.parent for path in (logs / "train" / "runs").glob("*/metrics.csv")}
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return read_rows(run_dir / "metrics.csv"), last, json.loads((run_dir / "summary.json").read_text())


@pytest.fixture(scope="module")
def two_ranks(charades_shards, tmp_path_factory):
    logs = tmp_path_factory.mktemp("ddp")
    assert run_ranks(train_rank, 2, settings(charades_shards, logs), f"{logs}.log") == [0, 0]
    said = [Path(f"{logs}.log.{rank}").read_text() for rank in (0, 1)]
    return *outcome(logs), said


def test_nothing_warns(two_ranks):
    *_, said = two_ranks
    assert "run directory: " in said[0]
    assert said[1] == ""
    assert [line for line in said[0].splitlines() if "arning" in line or "recommend" in line or ".py:" in line] == []


def test_every_sample_is_counted_once(two_ranks):
    rows, _, summary, _ = two_ranks
    assert summary["metrics"]["val/videos"] == 20
    assert (summary["samples_read"], summary["samples_skipped"]) == (64, {})
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(1, 9))


def test_two_ranks_signalled_apart_and_resumed_repeat_the_uninterrupted_run(charades_shards, two_ranks, tmp_path):
    rows, last, *_ = two_ranks
    common = settings(charades_shards, tmp_path / "logs")
    stop = [
        "extras.allow_targets=[helpers]",
        "+callbacks.stop._target_=helpers.signalling.SignalAt",
        "+callbacks.stop.moment=inside_step",
        "+callbacks.stop.count=5",
        f"+callbacks.stop.number={int(signal.SIGTERM)}",
        "+callbacks.stop.rank=1",
    ]
    assert run_ranks(train_rank, 2, [*common, *stop], f"{tmp_path}/stopped") == [143, 143]
    assert run_ranks(train_rank, 2, [*common, "ckpt_path=last"], f"{tmp_path}/resumed") == [0, 0]
    again_rows, again, _ = outcome(tmp_path / "logs")
    assert again_rows == rows
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in last["state_dict"].items())
