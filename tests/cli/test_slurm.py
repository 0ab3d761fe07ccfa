"""A job of two nodes under a real Slurm: stopped as at its time limit and as at a preemption, it goes on by itself."""

import json
import sys
import time
from pathlib import Path

import pytest

from helpers.recording import losses_of, recorded, recorder, samples_of
from helpers.slurm import slurm

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]
STEPS = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def submit(cluster, shards, folder, pause_s):
    words = [
        "experiment=charades_nl", "size=demo", "trainer.accelerator=cpu", "trainer.precision=32-true",
        "extras.threads=1",
        f"data.shards={shards}", f"paths.log_dir={folder}/logs", "data.batch_size=8", "data.eval_batch_size=20",
        "data.num_workers=0", f"trainer.max_steps={STEPS}", "trainer.max_epochs=-1", "trainer.limit_val_batches=0",
        "extras.checkpoint_every_n_steps=500", "callbacks.progress=null", "logger=wandb",
        *recorder(folder / "steps", pause_s),
    ]  # fmt: skip
    cluster.environment |= {
        "PYTHON": sys.executable, "PYTHONPATH": f"{ROOT}/src:{ROOT}/tests", "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip
    script = str(ROOT / "scripts" / "train.sbatch")
    options = [f"--chdir={ROOT}", "--nodes=2", "--ntasks-per-node=1", f"--output={folder}/%j.out"]
    return cluster.call("sbatch", "--parsable", *options, script, *words)


def wait(condition, what, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


@pytest.fixture(scope="module")
def undisturbed(cluster, charades_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    job = submit(cluster, charades_shards, folder, 0)
    wait(lambda: cluster.job(job)["JobState"] in ("COMPLETED", "FAILED"), lambda: cluster.job(job))
    assert cluster.job(job)["JobState"] == "COMPLETED", (folder / f"{job}.out").read_text()
    return recorded(folder / "steps")


# As Slurm does before the time limit; as it does at a preemption.
@pytest.mark.parametrize("how", ["limit", "preempted"])
def test_a_job_on_two_nodes_is_requeued_and_goes_on(cluster, charades_shards, undisturbed, tmp_path, how):
    job = submit(cluster, charades_shards, tmp_path, 0.5)

    def said():
        return cluster.job(job), (tmp_path / f"{job}.out").read_text()[-4000:]

    wait(lambda: len(recorded(tmp_path / "steps")) >= 5, said)
    if how == "limit":
        cluster.call("scancel", "--signal=USR1", job)
    else:  # SIGTERM, and SIGKILL after KillWait
        cluster.call("scontrol", "requeue", job)
    wait(lambda: cluster.job(job)["Restarts"] == "1", said)
    wait(lambda: cluster.job(job)["JobState"] in ("COMPLETED", "FAILED"), said)
    assert cluster.job(job)["JobState"] == "COMPLETED", said()
    output = (tmp_path / f"{job}.out").read_text()
    assert how == "preempted" or "stopped by signal 10; continue with ckpt_path=" in output  # srun ends before, there
    assert "/checkpoints/last.ckpt after step " in output
    steps = recorded(tmp_path / "steps")
    assert samples_of(steps) == samples_of(undisturbed)
    assert losses_of(steps) == losses_of(undisturbed)
    lines = sum(len(file.read_text().splitlines()) for file in (tmp_path / "steps").iterdir())
    assert lines == 2 * STEPS  # no step twice
    (run,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    record = json.loads((run / "summary.json").read_text())
    assert record["status"] == "finished"
    starts = [path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")]
    assert starts == [record["wandb_id"]] * 2
