"""Tests are of the weights that are meant, under whatever name; a run that only looks leaves records as they are."""

import pytest
import torch

from nlnet.config.resolve import load
from nlnet.errors import UserError
from nlnet.runs.run_dir import read_record
from nlnet.runs.train import train
from nlnet.tasks.task import less_is_better

BASE = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "callbacks.progress=null",
        "trainer.limit_train_batches=2"]  # fmt: skip


@pytest.fixture(scope="module")
def words(charades_shards, tmp_path_factory):
    return [*BASE, f"data.shards={charades_shards}", f"paths.log_dir={tmp_path_factory.mktemp('logs')}"]


@pytest.fixture(scope="module")
def finished(words):
    """Two validations; the loss of the second one is higher, so best and last are not the same."""
    more = ["trainer.max_epochs=2", "task.monitor=val/loss", "callbacks.best.filename='top-{epoch}'", "test=true"]
    more += ["optim.optimizer.lr=0.03", "optim/schedule=constant"]
    return train(load([*words, *more]))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_loss_is_best_where_it_is_lowest_and_a_renamed_best_is_tested(finished):
    figures, objects = finished
    folder = objects["run_dir"]
    assert read_record(folder)["best_checkpoint"].startswith("top-0")
    assert figures["best"] < figures["val/loss"]
    assert figures["test/loss"] == figures["best"]


def test_a_test_without_training_is_of_the_checkpoint_that_is_named(finished, words):
    figures, objects = finished
    folder = objects["run_dir"]
    before = contents(folder)
    last = folder / "checkpoints" / "last.ckpt"
    for named, loss in ((last, figures["val/loss"]), (folder, figures["best"]), ("last", figures["best"])):
        again, others = train(load([*words, "train=false", "test=true", f"ckpt_path={named}"]))
        assert again["test/loss"] == pytest.approx(loss, abs=0)
        assert others["run_dir"] != folder
    assert contents(folder) == before


def test_random_weights_are_not_tested(finished, words, tmp_path):
    logs = f"paths.log_dir={tmp_path}"
    with pytest.raises(UserError, match="train=false test=true: random weights would be tested; give ckpt_path=RUN"):
        train(load([*words, logs, "train=false", "test=true"]))
    with pytest.raises(UserError, match="train=false test=false: there is nothing to do"):
        train(load([*words, logs, "train=false"]))
    assert list(tmp_path.rglob("*.*")) == []
    _, objects = finished
    checkpoint = objects["run_dir"] / "checkpoints" / "last.ckpt"
    more = [f"init.checkpoint={checkpoint}", "init.keep_classifier=true", "train=false", "test=true"]
    figures, _ = train(load([*words, logs, *more]))
    assert figures["test/loss"] == finished[0]["val/loss"]


def test_without_a_best_checkpoint_the_last_weights_are_tested_and_that_is_said(words, capfd):
    figures, _ = train(load([*words, "trainer.max_epochs=1", "callbacks.best=null", "test=true"]))
    assert figures["test/loss"] == figures["val/loss"]
    assert "test=true: no checkpoint of the best val/mAP was kept; testing the weights of the last step" in (
        capfd.readouterr().out
    )


def test_a_look_at_a_run_leaves_its_records_as_they_are(finished, words):
    folder = finished[1]["run_dir"]
    before = contents(folder)
    _, objects = train(load([*words, "+trainer.fast_dev_run=true", "optim/schedule=constant", f"ckpt_path={folder}"]))
    assert objects["run_dir"] != folder
    with pytest.raises(UserError, match=r"holds the records of a run, which .* leave paths\.run_dir out"):
        train(load([*words, "+trainer.fast_dev_run=true", f"paths.run_dir={folder}"]))
    assert contents(folder) == before


def test_a_run_that_was_through_keeps_its_best_in_a_folder_of_its_own(words, finished, tmp_path):
    """Nothing is left to train: the checkpoint is validated, and kept as the best of the new folder."""
    last = finished[1]["run_dir"] / "checkpoints" / "last.ckpt"
    more = ["trainer.max_epochs=2", "task.monitor=val/loss", f"ckpt_path={last}", f"paths.run_dir={tmp_path}"]
    more += ["optim/schedule=constant"]
    figures, _ = train(load([*words, *more]))
    assert figures["val/loss"] == finished[0]["val/loss"]
    kept = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(
        torch.equal(value, kept[key]) for key, value in torch.load(last, weights_only=True)["state_dict"].items()
    )


@pytest.mark.parametrize(
    ("metric", "less"),
    [("val/loss", True), ("val/top1_error", True), ("val/mae", True), ("val/Loss", True), ("val/mAP", False),
     ("val/top1", False), ("val/AUROC_local", False), ("val/mask_AP", False), ("val/lossless", False)],
)  # fmt: skip
def test_which_metrics_are_best_where_they_are_lowest(metric, less):
    assert less_is_better(metric) is less
