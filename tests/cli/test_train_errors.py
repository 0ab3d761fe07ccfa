"""The mistakes people make, each answered by one message and exit code 1, with nothing half-written left behind."""

import shutil

import pytest
import torch

from nlnet.cli.eval import main as eval_main
from nlnet.cli.train import main
from nlnet.config.resolve import load
from nlnet.data.modules.base import check_divides
from nlnet.errors import UserError
from nlnet.runs.train import train

BASE = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "callbacks.progress=null"]


@pytest.fixture
def broken(charades_shards, tmp_path):
    """A copy of the shards that a test may damage."""
    return shutil.copytree(charades_shards, tmp_path / "shards")


def refused(command, tmp_path, *arguments, main=main):
    logs = tmp_path / "logs"
    code, _, err = command(main, *BASE, f"paths.log_dir={logs}", *arguments)
    lines = err.strip().splitlines()
    assert code == 1, err
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert not list(logs.rglob("*.ckpt"))
    return lines[0]


def test_unknown_experiment(command, tmp_path):
    assert "charades_nl" in refused(command, tmp_path, "experiment=charades_nll")


def test_no_such_folder(command, tmp_path):
    message = refused(command, tmp_path, f"data.shards={tmp_path}/nowhere")
    assert "no such folder" in message
    assert "prepare.py" in message


def test_a_folder_without_shards_without_manifest_or_of_another_data_set(command, tmp_path, broken, kinetics_shards):
    (tmp_path / "empty").mkdir()
    assert "holds no shards" in refused(command, tmp_path, f"data.shards={tmp_path}/empty")
    assert "kinetics-train-manifest.json" in refused(command, tmp_path, f"data.shards={kinetics_shards}")
    (broken / "charades-train-manifest.json").unlink()
    (broken / "charades-test-manifest.json").unlink()
    assert "no charades-train-manifest.json" in refused(command, tmp_path, f"data.shards={broken}")


def test_a_missing_and_a_cut_shard(command, tmp_path, broken):
    shard = broken / "charades-train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    assert f"{shard}: has" in refused(command, tmp_path, f"data.shards={broken}")
    shard.unlink()
    assert f"{shard}: is missing" in refused(command, tmp_path, f"data.shards={broken}")


def test_the_wrong_kind_of_task(command, tmp_path, charades_shards):
    message = refused(command, tmp_path, f"data.shards={charades_shards}", "task=multiclass")
    assert "task=multilabel" in message


def test_blocks_that_are_asked_for_and_do_not_exist(command, tmp_path, charades_shards):
    message = refused(command, tmp_path, f"data.shards={charades_shards}", "model.nonlocal_blocks=[res9.1]")
    assert "res3" in message


def test_a_batch_larger_than_the_data_or_that_does_not_divide(command, tmp_path, charades_shards):
    message = refused(command, tmp_path, f"data.shards={charades_shards}", "data.batch_size=35")
    assert "data.batch_size=35" in message
    with pytest.raises(UserError, match="use 6 or 9"):
        check_divides(7, 3, "data.batch_size")


def test_no_permission_for_the_run_directory(command, tmp_path, charades_shards):
    (tmp_path / "file").touch()
    message = refused(command, tmp_path, f"data.shards={charades_shards}", f"paths.log_dir={tmp_path}/file/logs")
    assert "cannot write the run directory" in message


def test_nothing_to_continue(command, tmp_path, charades_shards):
    shards = f"data.shards={charades_shards}"
    assert "no checkpoints/last.ckpt" in refused(command, tmp_path, shards, "ckpt_path=last")
    assert "no such file" in refused(command, tmp_path, shards, f"ckpt_path={tmp_path}/a.ckpt")
    (tmp_path / "b.pt").write_bytes(b"<html>")
    assert "not a checkpoint" in refused(command, tmp_path, shards, f"ckpt_path={tmp_path}/b.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "c.pt")
    message = refused(command, tmp_path, shards, f"ckpt_path={tmp_path}/c.pt")
    assert f"ckpt_path={tmp_path}/c.pt: not a checkpoint of a run; to start from its weights set init" in message


def test_a_run_without_an_end_and_one_without_the_optimized_figure(command, tmp_path, charades_shards):
    shards = f"data.shards={charades_shards}"
    assert "trainer.max_epochs" in refused(command, tmp_path, shards, "trainer.max_epochs=-1")


def test_a_checkpoint_of_another_network(command, tmp_path, charades_shards):
    common = [f"data.shards={charades_shards}", f"paths.log_dir={tmp_path}/logs", "trainer.max_epochs=1"]
    _, objects = train(load([*BASE, *common]))
    last = objects["run_dir"] / "checkpoints" / "last.ckpt"
    code, _, err = command(main, *BASE, *common, f"ckpt_path={last}", "model.nonlocal_blocks=0")
    assert code == 1
    assert "is not in this network" in err
    assert "config.yaml" in err
    code, _, err = command(eval_main, f"ckpt_path={last}", "model.nonlocal_blocks=0")
    assert code == 1
    assert "is not in this network" in err
    code, _, err = command(eval_main, f"ckpt_path={last}", "data.shards=null")
    assert code == 1
    assert "real run" in err


def test_unreadable_clips_are_counted_in_training_and_named_in_validation(command, tmp_path, broken, capfd):
    shard = broken / "charades-train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[600:5000] = bytes(4400)  # the first samples' bytes no longer have the manifest's CRC32
    shard.write_bytes(bytes(data))
    overrides = [*BASE, f"data.shards={broken}", f"paths.log_dir={tmp_path}/logs", "trainer.max_epochs=2"]
    code, _, err = command(main, *overrides, "data.max_skipped=0.01")
    assert code == 1
    assert "training samples could not be read" in err
    assert "; the first checksum: " in err
    assert "its CRC32 is not the manifest's), more than data.max_skipped=0.01" in err
    shutil.rmtree(tmp_path / "logs")
    train(load(overrides))
    (summary,) = (tmp_path / "logs").rglob("summary.json")
    text = summary.read_text()
    assert '"checksum": ' in text
    assert '"samples_read": ' in text

    validation = broken / "charades-test-000001.tar"
    data = bytearray(validation.read_bytes())
    data[2000:2100] = bytes(100)
    validation.write_bytes(bytes(data))
    code, _, err = command(main, *overrides)
    assert code == 1
    assert "data.max_missing_eval=1" in err
    assert "(checksum)" in err
    assert "; the first checksum: test00" in err
    figures, _ = train(load([*overrides, "data.max_missing_eval=1"]))
    assert (figures["val/videos"], figures["val/videos_missing"]) == (19, 1)
    assert "val: 19 of 20 videos; could not read test0" in capfd.readouterr().out
