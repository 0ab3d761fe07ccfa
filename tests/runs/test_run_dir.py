import math
import os

import pytest

from nlnet.errors import UserError
from nlnet.runs.continuing.which import last_run_dir
from nlnet.runs.run_dir import (
    RunKey,
    create,
    mark_failed,
    new_run_dir,
    newest_checkpoint,
    read_record,
    write_record,
)

REAL, DEMO = RunKey("train", "charades_nl", False), RunKey("train", "charades_nl", True)


def make_run(log_dir, identity, name, age):
    folder = log_dir / identity.task_name / "runs" / name
    create(folder)
    write_record(folder, {"task_name": identity.task_name, "experiment": identity.experiment, "demo": identity.demo})
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    os.utime(checkpoint, (1e9 - age, 1e9 - age))
    return folder


def test_last_is_the_newest_checkpoint_of_the_same_work(tmp_path):
    make_run(tmp_path, REAL, "b-older", 50)
    newest = make_run(tmp_path, REAL, "a-newer", 20)
    make_run(tmp_path, DEMO, "c-demo", 1)
    make_run(tmp_path, RunKey("train", "charades_i3d", False), "d-other", 2)
    make_run(tmp_path, RunKey("debug", "charades_nl", False), "e-debug", 3)
    assert last_run_dir(REAL, tmp_path) == newest
    with pytest.raises(UserError, match="kinetics_i3d"):
        last_run_dir(RunKey("train", "kinetics_i3d", False), tmp_path)


def test_the_newest_run_is_never_passed_over_in_silence(tmp_path, capsys):
    older = make_run(tmp_path, REAL, "older", 50)
    newest = make_run(tmp_path, REAL, "newest", 20)
    for content in (b"", b"[]", b"[" * 100_000, b"{}", b'"x"'):
        (newest / "summary.json").write_bytes(content)
        with pytest.raises(
            UserError, match=rf"{newest} is the newest with a checkpoint, and neither .* paths\.run_dir"
        ):
            last_run_dir(REAL, tmp_path)
    for nothing in ("", "[1]", "a: [", "task_name: train", "!!python/object:os.system x", "[" * 10_000):
        (newest / "config.yaml").write_text(nothing)
        with pytest.raises(UserError, match="is the newest with"):
            last_run_dir(REAL, tmp_path)
    (newest / "config.yaml").write_text("task_name: train\nexperiment_name: charades_nl\ndemo: false\n")
    assert last_run_dir(REAL, tmp_path) == newest
    (newest / "config.yaml").write_text("task_name: train\nexperiment_name: another\ndemo: false\n")
    assert last_run_dir(REAL, tmp_path) == older
    assert capsys.readouterr().out == ""
    started = tmp_path / "train" / "runs" / "started"
    create(started)
    write_record(started, {"task_name": "train", "experiment": "charades_nl", "demo": False})
    assert last_run_dir(REAL, tmp_path) == older
    assert capsys.readouterr().out == f"ckpt_path=last: {started} is newer and has no checkpoint; continuing older\n"


def test_a_run_whose_last_checkpoint_is_missing_has_the_one_before(tmp_path):
    make_run(tmp_path, REAL, "older", 50)
    newest = make_run(tmp_path, REAL, "newest", 20)
    (newest / "checkpoints" / "last.ckpt").rename(newest / "checkpoints" / "last-1.ckpt")
    assert last_run_dir(REAL, tmp_path) == newest
    assert newest_checkpoint(newest).name == "last-1.ckpt"


def test_a_record_says_failed_on_a_disk_that_takes_nothing_more(tmp_path):
    write_record(tmp_path, {"status": "running", "metrics": {"val/mAP": float("nan")}})
    size = (tmp_path / "summary.json").stat().st_size
    assert mark_failed(tmp_path)
    assert read_record(tmp_path) == {"status": "failed", "metrics": {"val/mAP": None}}
    assert (tmp_path / "summary.json").stat().st_size == size
    assert not mark_failed(tmp_path)
    (tmp_path / "summary.json").write_text('{"a": NaN}')  # as earlier versions wrote it
    assert math.isnan(read_record(tmp_path)["a"])


def test_names_say_demo_and_a_requeued_job_has_its_folder_back(tmp_path):
    assert new_run_dir(DEMO, tmp_path, env={}).name.endswith("_charades_nl-demo")
    first = new_run_dir(REAL, tmp_path, env={})
    assert new_run_dir(REAL, tmp_path, env={}) != first
    job = new_run_dir(REAL, tmp_path, env={"SLURM_JOB_ID": "42"})
    create(job)
    requeued = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": "1"}
    assert new_run_dir(REAL, tmp_path, env=requeued) == job
    assert new_run_dir(REAL, tmp_path, env={"SLURM_JOB_ID": "42"}) == job  # another rank was quicker
    (job / "summary.json").touch()
    assert new_run_dir(REAL, tmp_path, env={"SLURM_JOB_ID": "42"}).name == f"{job.name}-2"
    for late in ({"SLURM_PROCID": "3", "SLURM_JOB_ID": "42"}, {"RANK": "1", "TORCHELASTIC_RUN_ID": "42"}):
        assert new_run_dir(REAL, tmp_path, env=late) == job


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match=r"paths\.log_dir"):
        create(blocked / "runs")
