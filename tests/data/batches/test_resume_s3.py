"""Training from S3, killed with workers and read-ahead in flight, and resumed: the same losses, nothing read twice."""

import json
import signal

import numpy as np
import pytest
import torch

from helpers.fault_proxy import FaultProxy
from helpers.processes import run_process, run_ranks, train_command
from helpers.s3_training import train_from, train_rank_from
from helpers.servers import s3_environment, s3_server
from helpers.shards import write_tiny
from helpers.signalling import killer
from nlnet.data.batches.order import Shards, epoch_order, train_batch
from nlnet.data.shards.manifest import Manifest
from nlnet.runs.callbacks.metrics_csv import read_rows

BATCH, EPOCHS, SEED = 8, 3, 0
STEPS = 34 // BATCH * EPOCHS


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Clips that lie further apart than the reader merges, so that a request brings wanted ones only."""
    return write_tiny(tmp_path_factory.mktemp("shards"), padding=300_000)


@pytest.fixture(scope="module")
def server(shards):
    with s3_server(shards) as address:
        yield address


def settings(place, logs, *more):
    return [
        "experiment=charades_nl",
        "size=demo",
        f"data.shards={place}",
        f"paths.log_dir={logs}",
        f"data.batch_size={BATCH}",
        "data.eval_batch_size=8",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.limit_val_batches=1",
        "extras.checkpoint_every_n_steps=1",
        "callbacks.progress=null",
        f"seed={SEED}",
        *more,
    ]


def outcome(logs):
    (folder,) = {path.parent for path in (logs / "train" / "runs").glob("*/metrics.csv")}
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return read_rows(folder / "metrics.csv"), weights, json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(shards, tmp_path_factory):
    """The run that was never killed, from local files in one process; by world size."""
    results = {}

    def get(world):
        if world not in results:
            logs = tmp_path_factory.mktemp("reference")
            common = settings(shards, logs, "data.num_workers=0", *ranks(world))
            if world == 1:
                assert run_process(train_command, common, f"{logs}.log") == 0
            else:
                assert run_ranks(train_rank_from, world, {}, common, f"{logs}.log") == [0] * world
            results[world] = outcome(logs)
        return results[world]

    return get


def ranks(world):
    return ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={world}"] if world > 1 else []


def sample_at(manifest, request):
    """The samples that a request for a shard's bytes touches."""
    (shard,) = (k for k, s in enumerate(manifest.shards) if request.path.endswith(s.name))
    return {
        k
        for k, s in enumerate(manifest.samples)
        if s.shard == shard and s.offset < request.end and s.offset + s.length > request.start
    }


def check_nothing_from_before(shards, reads, step):
    """The run resumed after `step` steps of the last epoch read none of the samples of that epoch's batches before."""
    manifest = Manifest.from_json((shards / "charades-train-manifest.json").read_text(), "")
    order = epoch_order(Shards(manifest.columns.number("shard")), SEED, EPOCHS - 1, 8)
    per_epoch = len(order) // BATCH
    first = step - per_epoch * (EPOCHS - 1)
    assert 0 <= first < per_epoch, "the test looks at the last epoch only"
    wanted = {int(i) for t in range(first, per_epoch) for i in train_batch(order, t, BATCH, 0, 1)}
    touched = [sample_at(manifest, request) for request in reads if "train" in request.path]
    assert set().union(*touched) == wanted
    assert sum(map(len, touched)) == len(wanted)  # and each of them once


def kill_and_resume(server, shards, tmp_path, steps, expected, workers=(2, 2)):
    """Kill in each of the optimizer steps `steps` (from 1), resume from `last` each time; returns the reads of the
    process that finished."""
    logs, done = tmp_path / "logs", 0
    with FaultProxy(server) as proxy:
        environment = s3_environment(proxy.address)
        common = settings("s3://videos/tiny", logs)
        for step in steps:
            again = ["ckpt_path=last"] if done else []
            killed = [
                *common,
                f"data.num_workers={workers[0]}",
                *killer("inside_step", step - done, signal.SIGKILL),
                *again,
            ]
            log = tmp_path / "killed.log"
            assert run_process(train_from, environment, killed, str(log)) == -signal.SIGKILL, log.read_text()
            done = step - 1
        before = len(proxy.requests)
        resumed = [*common, f"data.num_workers={workers[1]}", "ckpt_path=last"]
        code = run_process(train_from, environment, resumed, str(tmp_path / "resumed.log"))
        assert code == 0, (tmp_path / "resumed.log").read_text()
        reads = [request for request in proxy.reads if request.number >= before]
    rows, weights, summary = outcome(logs)
    assert rows == expected[0]
    assert all(torch.equal(weights[name], value) for name, value in expected[1].items())
    assert summary["samples_read"] == BATCH * STEPS
    assert summary["bytes_read"] > 0
    assert summary["data_wait_seconds"] > 0
    assert summary["read_retries"] == 0
    return reads


# Optimizer steps from 1; 4 an epoch. Killed inside step 9: step 8, the last of an epoch, is done.
QUICK = [((9,), (2, 2))]
_drawn = np.random.default_rng(6).permutation(np.arange(2, STEPS + 1))[:8]
FULL = [
    *(pytest.param((int(step),), (2, 2), marks=pytest.mark.full) for step in _drawn),
    pytest.param((9, 11), (2, 2), marks=pytest.mark.full),
    pytest.param((6,), (2, 0), marks=pytest.mark.full),
    pytest.param((11,), (1, 3), marks=pytest.mark.full),
]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine with few cores
@pytest.mark.parametrize(("steps", "workers"), QUICK + FULL)
def test_killed_and_resumed_from_s3(server, shards, uninterrupted, tmp_path, steps, workers):
    reads = kill_and_resume(server, shards, tmp_path, steps, uninterrupted(1), workers)
    if steps[-1] - 1 >= STEPS - STEPS // EPOCHS:
        check_nothing_from_before(shards, reads, steps[-1] - 1)


@pytest.mark.full
@pytest.mark.parametrize("step", [3, 9, 10])
def test_two_ranks_killed_and_resumed_from_s3(server, uninterrupted, tmp_path, step):
    logs = tmp_path / "logs"
    environment = s3_environment(server)
    common = settings("s3://videos/tiny", logs, "data.num_workers=2", *ranks(2))
    kill = killer("inside_step", step, signal.SIGKILL, rank=1)
    codes = run_ranks(
        train_rank_from,
        2,
        environment,
        [*common, *kill],
        str(tmp_path / "killed.log"),
        timeout=60,
    )
    assert -signal.SIGKILL in codes
    resumed = run_ranks(train_rank_from, 2, environment, [*common, "ckpt_path=last"], str(tmp_path / "resumed.log"))
    assert resumed == [0, 0], (tmp_path / "resumed.log.0").read_text()
    rows, weights, _ = outcome(logs)
    expected_rows, expected_weights, _ = uninterrupted(2)
    assert rows == expected_rows
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())
