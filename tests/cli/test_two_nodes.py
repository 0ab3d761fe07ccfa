"""Two machines, as two network namespaces: one training by torchrun that reads from an S3 server on the first."""

import json
import sys
import time
from pathlib import Path

import pytest

from helpers.processes import run_process, train_command
from helpers.recording import losses_of, recorded, recorder, samples_of
from helpers.servers import s3_environment
from helpers.stopping import stopper
from helpers.two_nodes import ADDRESSES, two_nodes, wait_all

pytestmark = pytest.mark.full
STEPS = 12  # of 4 an epoch
SERVER = """
import sys, time
from pathlib import Path
from helpers.servers import s3_server
with s3_server(Path(sys.argv[1]), host=sys.argv[2]) as address:
    Path(sys.argv[3]).write_text(address)
    time.sleep(3600)
"""


def words(shards, logs):
    return [
        "experiment=charades_nl", "size=demo", "trainer=ddp_sim", f"data.shards={shards}", f"paths.log_dir={logs}",
        "data.batch_size=8", "data.eval_batch_size=20", "data.num_workers=1", f"trainer.max_steps={STEPS}",
        "trainer.max_epochs=-1", "trainer.limit_val_batches=0", "callbacks.progress=null", "extras.threads=1",
        "extras.checkpoint_every_n_steps=2", "extras.rank_timeout_s=120", "trainer.devices=1", "trainer.num_nodes=2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with two_nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def bucket(nodes, charades_shards):
    """The environment by which both find the S3 server of the first."""
    ready = nodes.folder / "ready"
    command = [sys.executable, "-c", SERVER, str(charades_shards), ADDRESSES[0], str(ready)]
    server = nodes.start(0, command, nodes.folder / "server.log")
    for _ in range(300):
        if ready.is_file() and ready.read_text():
            return s3_environment(ready.read_text())
        assert server.poll() is None, (nodes.folder / "server.log").read_text()
        time.sleep(0.1)
    raise TimeoutError("no S3 server")


def train(nodes, bucket, folder, *more, restarts=0, meanwhile=lambda: None):
    """The steps of a training on both, and the folder of its run."""
    common = [*words("s3://videos/tiny", folder / "logs"), *recorder(folder / "steps", 0.3), *more]
    env = bucket | {"WANDB_MODE": "offline"}
    processes = nodes.torchrun(common, folder / "log", restarts=restarts, job=folder.name, env=env)
    meanwhile()
    codes = wait_all(processes, 400)
    assert codes == [0, 0], [Path(f"{folder}/log.{node}").read_text()[-3000:] for node in (0, 1)]
    (run,) = (folder / "logs" / "train" / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    return recorded(folder / "steps"), run


def wandb_ids(run):
    """Of every start that W&B has seen."""
    return [path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")]


@pytest.fixture(scope="module")
def undisturbed(nodes, bucket, tmp_path_factory):
    return train(nodes, bucket, tmp_path_factory.mktemp("undisturbed"), "logger=wandb")


def test_two_nodes_are_one_process_that_accumulates(undisturbed, charades_shards, tmp_path):
    steps, run = undisturbed
    alone = [*words(charades_shards, tmp_path / "logs"), *recorder(tmp_path / "steps"), "trainer=cpu"]
    alone = [word for word in alone if word not in ("trainer=ddp_sim", "trainer.num_nodes=2")]
    code = run_process(train_command, [*alone, "trainer.accumulate_grad_batches=2"], f"{tmp_path}/log", timeout=240)
    assert code == 0, Path(f"{tmp_path}/log").read_text()
    expected = recorded(tmp_path / "steps")
    assert len(expected) == len(steps) == STEPS
    for step, parts in expected.items():
        assert [samples for samples, _ in parts] == [samples for samples, _ in steps[step]]
        tolerance = 1e-6 if step == 0 else 1e-4
        for (_, loss), (_, here) in zip(parts, steps[step], strict=True):
            assert here == pytest.approx(loss, rel=tolerance), step
    assert wandb_ids(run) == [json.loads((run / "summary.json").read_text())["wandb_id"]]


def test_a_killed_rank_of_the_second_is_started_again(nodes, bucket, undisturbed, tmp_path):
    once = f"+callbacks.stopper.once={tmp_path}/killed"
    allow = stopper("kill", 3, 1)[1:]
    steps, run = train(nodes, bucket, tmp_path, *allow, once, "logger=wandb", restarts=3)
    assert (tmp_path / "killed").exists()
    assert set(wandb_ids(run)) == {json.loads((run / "summary.json").read_text())["wandb_id"]}
    assert samples_of(steps) == samples_of(undisturbed[0])
    assert losses_of(steps) == losses_of(undisturbed[0])


def test_a_cable_that_is_out_for_twenty_seconds(nodes, bucket, undisturbed, tmp_path):
    def unplug():
        deadline = time.monotonic() + 120
        while len(recorded(tmp_path / "steps")) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        nodes.cable(up=False)
        time.sleep(20)
        nodes.cable(up=True)

    steps, _ = train(nodes, bucket, tmp_path, restarts=3, meanwhile=unplug)
    assert samples_of(steps) == samples_of(undisturbed[0])
    assert losses_of(steps) == losses_of(undisturbed[0])
