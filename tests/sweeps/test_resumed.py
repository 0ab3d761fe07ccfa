"""A run that an agent takes up again: what W&B types then, where the run is found, what is refused. All offline."""

import json
import signal

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from helpers.signalling import killer
from nlnet.cli.train import main
from nlnet.config.words import read_words
from nlnet.errors import UserError
from nlnet.reading import read_yaml
from nlnet.runs.continuing.agent import resumed_words
from nlnet.runs.run_dir import read_record

IN_SWEEP = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "run1"}
# What issues 4237 and 9143 of wandb show: the client's own key first, then every part of the configuration.
GIVEN_BACK = ["_wandb={'cli_version': '0.31.0', 't': {'1': [1, 5]}}", "experiment_name=x", "task=None", "seed=1"]


def given_back(folder):
    """The arguments of a resumed run: its configuration, in the words of W&B's own agent."""
    config = {"_wandb": {"t": {"1": [1, 5]}}} | read_yaml(folder / "config.yaml")
    arguments = {"args": {key: {"value": value} for key, value in config.items()}}
    return create_sweep_command_args(arguments)["args_no_hyphens"]


@pytest.mark.full
def test_a_preempted_run_goes_on_with_its_own_settings(command, charades_shards, tmp_path, monkeypatch):
    base = [
        "experiment=charades_nl", "size=demo", f"data.shards={charades_shards}", "data.batch_size=8",
        "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1",
        "callbacks.progress=null", "model.nonlocal_blocks=[res3.0]", "tags=['a b','c=d']", "logger=wandb",
    ]  # fmt: skip
    assert command(main, *base, f"paths.run_dir={tmp_path}/whole")[0] == 0
    for name, value in IN_SWEEP.items():
        monkeypatch.setenv(name, value)
    words = [*base, *killer("batch_start", 3, signal.SIGUSR1), f"paths.log_dir={tmp_path}/logs"]
    assert command(main, *words)[0] == 128 + signal.SIGUSR1
    (folder,) = tmp_path.glob("logs/train/runs/*")
    assert read_record(folder)["status"] == "interrupted"
    code, out, err = command(main, "logger=wandb", *given_back(folder))  # with another log_dir than the run's
    assert code == 0, err
    assert f"W&B resumes its run run1: it goes on in {folder}" in err
    assert "after step 3" in out
    ends = [read_record(path) for path in (folder, tmp_path / "whole")]
    metrics = [{k: v for k, v in end["metrics"].items() if not k.startswith(("data/", "perf/"))} for end in ends]
    assert metrics[0] == metrics[1]
    assert "val/mAP" in metrics[0]
    assert [end["status"] for end in ends] == ["finished", "finished"]
    assert len({path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")}) == 1
    assert len(list((folder / "wandb").glob("offline-run-*-run1"))) == 2


def record(folder, checkpoint=False, **content):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(content))
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()


def test_the_words_of_the_start_are_those_of_the_resume(tmp_path):
    env = IN_SWEEP | {"NLNET_LOG_DIR": str(tmp_path)}
    folder, words = tmp_path / "train/runs/it's", ["experiment=x", "tags=['a, b']", "ckpt_path=old.ckpt", "seed=1"]
    assert resumed_words(words, env) == words
    record(folder, wandb_id="run1", words=[*words, "paths.run_dir=elsewhere"])
    record(tmp_path / "train/runs/other", wandb_id="run2", words=["experiment=y"])
    where = "paths.run_dir='" + str(folder).replace("'", "\\'") + "'"
    assert resumed_words(GIVEN_BACK, env) == [*words, where]
    assert read_words([where]) == [where]
    (folder / "checkpoints" / "last.ckpt").touch()
    assert resumed_words(GIVEN_BACK, env) == ["experiment=x", "tags=['a, b']", "seed=1", where, "ckpt_path=last"]
    assert resumed_words(GIVEN_BACK, {}) == GIVEN_BACK
    assert resumed_words(GIVEN_BACK, {"WANDB_RUN_ID": "run1"}) == GIVEN_BACK


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"wandb_id": "run2", "words": []}, "W&B resumes its run run1, and no run under .* has this id"),
        ({"wandb_id": "run1"}, "does not say how this run was started; continue it with ckpt_path="),
        ({"wandb_id": "run1", "words": [1]}, "does not say how this run was started"),
        ({"wandb_id": "run1", "words": ["data.shards=https://me:***@host/x"]}, "the secret is not kept"),
    ],
)
def test_what_cannot_be_resumed_is_refused_in_words(tmp_path, content, message):
    record(tmp_path / "train/runs/mine", **content)
    with pytest.raises(UserError, match=message):
        resumed_words(GIVEN_BACK, IN_SWEEP | {"NLNET_LOG_DIR": str(tmp_path)})


@pytest.mark.parametrize("paths", ["{'run_dir': 1}", "[", "None", "{'run_dir': 'x'" + "(" * 5000])
def test_what_w_and_b_says_of_folders_may_be_anything(tmp_path, paths):
    with pytest.raises(UserError, match="no run under"):
        resumed_words([*GIVEN_BACK, f"paths={paths}"], IN_SWEEP | {"NLNET_LOG_DIR": str(tmp_path)})


def test_nested_parameters_of_a_sweep_are_dotted_keys():
    words = ["optim={'optimizer': {'lr': 0.1, 'betas': (0.9, 0.99)}, 'no_weight_decay': 'norms'}", "seed=1"]
    assert read_words(words) == [
        "optim.optimizer.lr=0.1",
        "optim.optimizer.betas=[0.9,0.99]",
        "optim.no_weight_decay=norms",
        "seed=1",
    ]
