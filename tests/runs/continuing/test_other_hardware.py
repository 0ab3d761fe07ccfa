"""One epoch on 1, 2, 4 and again 1 ranks, killed in between: the batches of the run without a stop."""

import json

import pytest

from helpers.processes import run_process, run_ranks, train_command, train_rank
from helpers.recording import losses_of, recorded, recorder, samples_of
from helpers.shards import write_tiny
from helpers.stopping import stopper
from nlnet.runs.callbacks.metrics_csv import read_rows

# 34 clips in batches of 4: 8 steps an epoch.
BATCH, STEPS = 4, 8
TRAINERS = ["ddp_sim", "fsdp"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("shards"))


def settings(shards, folder):
    return [
        "experiment=charades_nl", "size=demo", f"data.shards={shards}", f"paths.run_dir={folder}/run",
        f"data.batch_size={BATCH}", "data.eval_batch_size=20", "trainer.max_epochs=1", "trainer.limit_val_batches=0",
        "extras.checkpoint_every_n_steps=1", "extras.threads=1", "extras.rank_timeout_s=30", "callbacks.progress=null",
        *recorder(folder / "steps"),
    ]  # fmt: skip


def go_on(shards, folder, trainer, ranks, words):
    """The exit codes of all ranks."""
    begun = (folder / "run" / "checkpoints" / "last.ckpt").exists()
    words = [*settings(shards, folder), *(["ckpt_path=last"] if begun else []), *words]
    if ranks == 1 and trainer == "ddp_sim":
        return [run_process(train_command, [*words, "trainer=cpu"], f"{folder}/log")]
    words += [f"trainer={trainer}", "trainer.accelerator=cpu", f"trainer.devices={ranks}"]
    return run_ranks(train_rank, ranks, words, f"{folder}/log")


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert go_on(shards, folder, "ddp_sim", 1, ["data.num_workers=0"]) == [0]
    return recorded(folder / "steps")


# ranks, accumulated parts, workers, and the step at which the last rank is killed
@pytest.mark.full
@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize(
    "starts",
    [
        [(1, 1, 0, 2), (2, 1, 1, 4), (4, 1, 0, 6), (1, 1, 2, None)],
        [(1, 4, 0, 2), (2, 2, 1, 4), (4, 1, 0, 6), (1, 2, 1, None)],
    ],
    ids=["ranks", "ranks and parts"],
)
def test_ranks_workers_and_parts_change_at_every_resume(shards, undisturbed, tmp_path, trainer, starts):
    for ranks, parts, workers, killed in starts:
        words = [f"data.num_workers={workers}", f"trainer.accumulate_grad_batches={parts}"]
        if killed is not None:
            words += stopper("kill", killed * parts, ranks - 1)[1:]
        codes = go_on(shards, tmp_path, trainer, ranks, words)
        said = [file.read_text()[-1500:] for file in sorted(tmp_path.glob("log*"))]
        assert codes == ([0] * ranks if killed is None else [1] * (ranks - 1) + [-9]), said
    steps = recorded(tmp_path / "steps")
    seen = [sample for samples in samples_of(steps).values() for sample in samples]
    assert samples_of(steps) == samples_of(undisturbed)
    assert len(seen) == len(set(seen)) == BATCH * STEPS
    expected = losses_of(undisturbed)
    first = losses_of(steps)
    assert first[0] == pytest.approx(expected[0], rel=1e-2 if starts[0][1] > 1 else 1e-6)
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(1, STEPS + 1))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["samples_read"] == BATCH * STEPS
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
