"""A new run never writes over the checkpoints or results of another; what holds none of these may be had again."""

import shutil
from pathlib import Path

import pytest

from nlnet.cli.train import main
from nlnet.config.resolve import changed, load
from nlnet.errors import UserError
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.continuing.which import with_run_dir
from nlnet.runs.run_dir import create, read_record, refuse_taken, write_record
from nlnet.runs.train import train

BASE = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "callbacks.progress=null",
        "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
        "trainer.log_every_n_steps=1", "extras.checkpoint_every_n_steps=100"]  # fmt: skip


@pytest.fixture(scope="module")
def words(charades_shards):
    return [*BASE, f"data.shards={charades_shards}"]


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train(load([*words, f"paths.run_dir={folder}"]))
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_not_trained_over(command, words, finished):
    before = contents(finished)
    code, _, err = command(main, *words, f"paths.run_dir={finished}")
    assert (code, err) == (
        1,
        f"error: paths.run_dir={finished}: holds checkpoints/best.ckpt, checkpoints/last.ckpt, the summary.json of a"
        " finished run, which a new run would write over; go on with ckpt_path=last, or choose another folder, or leave"
        " paths.run_dir out\n",
    )
    assert contents(finished) == before


def test_nor_from_a_checkpoint_of_elsewhere(words, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "other")
    before = contents(finished)
    for source in ("other", "other/checkpoints/best.ckpt"):
        with pytest.raises(UserError, match="which a new run would write over; go on with ckpt_path=last"):
            train(load([*words, f"paths.run_dir={finished}", f"ckpt_path={tmp_path / source}"]))
    assert contents(finished) == before


def test_a_run_goes_on_in_its_folder_from_any_of_its_own_checkpoints(words, finished):
    cfg = load([*words, f"paths.run_dir={finished}"])
    for source in ("last", str(finished), f"{finished}/checkpoints/best.ckpt"):
        assert with_run_dir(changed(cfg, {"ckpt_path": source})).paths.run_dir == str(finished)


def test_a_best_checkpoint_alone_is_work_too_and_is_named(tmp_path):
    create(tmp_path)
    best = tmp_path / "checkpoints" / "best.ckpt"
    for status in ("running", "failed", "interrupted"):
        write_record(tmp_path, {"status": status})
        refuse_taken(tmp_path)
        best.touch()
        with pytest.raises(UserError, match=f"holds checkpoints/best.ckpt, which .*; go on with ckpt_path={best}, or"):
            refuse_taken(tmp_path)
        best.unlink()


def test_other_ranks_and_jobs_that_are_started_again_come_to_the_folder_of_their_run(words, tmp_path, monkeypatch):
    """A rank may look when the first one has written already; a scheduler gives the same command line again."""
    create(tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    cfg = load([*words, f"paths.run_dir={tmp_path}"])
    for name, value, goes_on in (("RANK", "1", None), ("SLURM_RESTART_COUNT", "1", "last")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert with_run_dir(cfg).ckpt_path == goes_on


def test_results_without_checkpoints_are_kept_as_well(tmp_path):
    write_record(tmp_path, {"status": "finished"})
    with pytest.raises(UserError, match=r"finished run, which a new run would write over; choose another folder, or"):
        refuse_taken(tmp_path)


def test_a_run_that_failed_before_its_first_checkpoint_is_started_again_among_the_users_own_files(
    words, finished, tmp_path
):
    for name in ("notes.txt", "slurm-42.out", ".hydra/config.yaml", "checkpoints/pretrained.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    again = [*words, f"paths.run_dir={tmp_path}"]
    with pytest.raises(UserError, match="not finite"):
        train(load([*again, "optim.optimizer.lr=1e30"]))
    assert read_record(tmp_path)["status"] == "failed"
    assert len(read_rows(tmp_path / "metrics.csv")) == 1
    train(load(again))
    assert read_record(tmp_path)["status"] == "finished"
    assert read_rows(tmp_path / "metrics.csv") == read_rows(finished / "metrics.csv")  # no row of the failed one
    assert {Path(path).name for path, content in contents(tmp_path).items() if content == b"mine"} == {
        "notes.txt", "slurm-42.out", "config.yaml", "pretrained.pt",
    }  # fmt: skip
