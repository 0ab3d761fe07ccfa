"""What people type: each command does what is right, or says in one line how it is typed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from conftest import ROOT
from helpers.signalling import killer
from nlnet.cli.eval import main as eval_main
from nlnet.cli.train import main
from nlnet.config.resolve import load
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.run_dir import RunKey, new_run_dir
from nlnet.runs.train import train


@pytest.fixture(scope="module")
def base(charades_shards, tmp_path_factory):
    """Two steps of training on tiny shards."""
    return [
        "experiment=charades_nl", "size=demo", f"data.shards={charades_shards}", "data.batch_size=8",
        "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
        "callbacks.progress=null",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    return train(load([*base, f"paths.log_dir={tmp_path_factory.mktemp('finished')}"]))


def runs(logs, task="train"):
    return sorted(path.parent for path in logs.glob(f"{task}/runs/*/summary.json"))


def said(command, *words):
    """The one line on standard error of a command that is refused."""
    code, _, err = command(main, *words)
    lines = err.strip().splitlines()
    assert (code, len(lines)) == (1, 1), err
    return lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+trainer.accumulate_grad_batches=10"], "trainer.accumulate_grad_batches exists, and + is for new keys"),
        (["--seed=1"], "--seed=1: settings are typed without dashes: seed=1; a W&B sweep passes them so with"),
        (["--sead"], "--sead: there is no such option"),
        (["seed"], "seed: not a setting; type KEY=VALUE"),
        (["ckpt_path=runs/a=b/last.ckpt"], "in quotes they are text: \"ckpt_path='runs/a=b/last.ckpt'\""),
        (["optim.schedule=cosine"], "optim/schedule is a group, whose choices are typed with a slash: optim/schedule="),
        (["optim/schedul=cosine"], "nearest: optim/schedule"),
        (["model=null"], "model=null: model is a group, and has one of its choices; nearest: "),
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: its plugin is not installed here; pip install hydra-optuna"),
        (["hydra/launcher=joblib"], "pip install hydra-joblib-launcher"),
        (["-m", "hparams_search=optuna"], "pip install hydra-optuna-sweeper"),
        (["seed=-1"], "seed=-1: expected a whole number from 0"),
        (["optim.optimizer.lr=abc"], "optim.optimizer.lr=abc: expected a number"),
        (["trainer.accumulate_grad_batches=0"], "expected a whole number from 1"),
        (["trainer.limit_train_batches=0"], "nothing would be trained; for a test alone set train=false"),
        (["trainer.limit_train_batches=0.1"], "trainer.limit_train_batches=0.1: less than one of the 4 batches"),
        (["trainer.val_check_interval=100"], "trainer.val_check_interval=100: an epoch has 2 batches; give 2 or less"),
        (["task.monitor=val/acc"], "task.monitor=val/acc: this task logs no such metric"),
        (["callbacks.best.monitor=val/acc"], "callbacks.best.monitor=val/acc: this task logs no such metric"),
        (["optimized_metric=val/map"], "optimized_metric=val/map: this task logs no such metric; nearest: val/mAP"),
        (["optimized_metric=test/mAP"], "there is no test without test=true"),
        (["callbacks=attention", "model.nonlocal_blocks=0"], "ResNet3d has no non-local block"),
        (["callbacks=detection"], "callbacks.image_grid: it draws detections, and this task is of videos"),
        (["+callbacks.lr._target_=pytorch_lightning.callbacks.LearningRateFinder"], "-m optim.optimizer.lr="),
        (["+callbacks.bs._target_=pytorch_lightning.callbacks.BatchSizeFinder"], "-m data.batch_size="),
        (["train=false"], "train=false test=false: there is nothing to do"),
        (["train=false", "test=true"], "random weights would be tested"),
        (["trainer.precision=16-mixed"], "float16 needs a GPU"),
        (["ckpt_path=last"], "no checkpoints/last.ckpt of experiment=charades_nl"),
        (["ckpt_path=/tmp"], "no checkpoints/last.ckpt in this folder; give a run's folder"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_no_run(command, base, tmp_path, words, message):
    words = [*base, f"paths.log_dir={tmp_path}", *words]
    assert message in said(command, *words)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "multirun.yaml"]
    assert list(tmp_path.glob("*/runs/*")) == []


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is such a device")
def test_a_device_that_is_asked_for_by_its_trainer_is_not_dropped(command, base, tmp_path):
    for word in ("trainer=gpu", "trainer=mps"):
        assert f"{word.partition('=')[2]}" in said(command, *base, word, f"paths.log_dir={tmp_path}").lower()
    assert load([*base, "trainer=gpu"]).trainer.accelerator == "gpu"
    assert load([*base, "trainer=gpu", "trainer.accelerator=cpu"]).trainer.accelerator == "cpu"
    assert load(base).trainer.accelerator == "cpu"


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["task_name=2024"], "task_name", "2024"),
        (["task_name=nan"], "task_name", "nan"),
        (["tags=[1,a]"], "tags", ["1", "a"]),
        (["callbacks=null"], "callbacks", {}),
        (["logger=null"], "logger", {}),
        (["debug=null"], "size_name", "demo"),
        (["trainer.gradient_clip_val=None"], "trainer.gradient_clip_val", None),
        (["data.scale=(32, 40)"], "data.scale", [32, 40]),
        (["model.nonlocal_groups={'res3': 4}"], "model.nonlocal_groups", {"res3": 4}),
        (["model.nonlocal_blocks=['res3.0']"], "model.nonlocal_blocks", ["res3.0"]),
        (["hydra.run.dir=/somewhere/run"], "paths.run_dir", "/somewhere/run"),
        (["optim.schedule.final=0.5"], "optim.schedule.final", 0.5),
        (["experiment=charades_nl.yaml"], "experiment_name", "charades_nl"),
        (["logger=csv"], "logger.csv.name", "csv"),
        (["logger=many_loggers"], "logger.wandb.project", "nlnet"),
    ],
)
def test_what_is_typed_is_what_is_meant(base, words, key, value):
    cfg = load([*(word for word in base if not word.startswith("callbacks.")), *words])
    for part in key.split("."):
        cfg = cfg[part]
    assert cfg == value


def test_version(command):
    for command_main in (main, eval_main):
        code, out, _ = command(command_main, "--version")
        assert (code, out.split()[0]) == (0, "nlnet")


def test_no_validation_no_metric_and_no_failure(command, base, tmp_path):
    words = [*base, f"paths.log_dir={tmp_path}", "trainer.limit_val_batches=0"]
    code, out, err = command(main, *words)
    assert code == 0, err
    assert "optimized_metric=val/mAP: this run logged " in out
    assert "without a validation it returns nothing" in out
    assert len(runs(tmp_path)) == 1


def test_eval_finds_the_run_and_train_goes_on_in_it(command, finished, base, tmp_path):
    logs = tmp_path / "logs"
    shutil.copytree(finished[1]["run_dir"].parents[2], logs)
    (folder,) = runs(logs)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(finished[1]["run_dir"].parents[2]), str(logs)))
    for named in ("last", folder, folder / "checkpoints"):
        code, out, err = command(eval_main, f"ckpt_path={named}", f"paths.log_dir={logs}")
        assert code == 0, err
        assert f"evaluating {folder}/checkpoints/best.ckpt" in out
    evaluations = runs(logs, "eval")
    figures = [json.loads((run / "summary.json").read_text())["metrics"]["val/mAP"] for run in evaluations]
    assert figures == [finished[0]["val/mAP"]] * 3
    code, _, err = command(eval_main, "ckpt_path=last", f"paths.log_dir={logs}", "experiment=table2a_gaussian")
    assert (code, "no run with a checkpoint of experiment=table2a_gaussian" in err) == (1, True)
    code, _, err = command(main, *base, f"ckpt_path={folder}", "trainer.max_epochs=2", f"paths.log_dir={logs}")
    assert code == 0, err
    assert runs(logs) == [folder]
    assert [int(row["step"]) for row in read_rows(folder / "metrics.csv") if row["train/loss"]] == [1, 2, 3, 4]


def test_each_point_of_a_multirun_goes_on_where_it_was_and_one_that_fails_ends_no_other(command, base, tmp_path):
    words = ["-m", *base, f"paths.log_dir={tmp_path}", "trainer.limit_train_batches=1", "seed=0,1"]
    assert command(main, *words)[0] == 0
    points = {json.loads((run / "summary.json").read_text())["seed"]: run for run in runs(tmp_path)}
    assert set(points) == {0, 1}
    code, out, err = command(main, *words, "ckpt_path=last", "trainer.max_epochs=2", "seed=1,7,0")
    assert code == 1
    assert "no checkpoints/last.ckpt of experiment=charades_nl seed=7" in err
    assert runs(tmp_path) == sorted(points.values())
    for run in points.values():
        assert [int(row["step"]) for row in read_rows(run / "metrics.csv") if row["train/loss"]] == [1, 2]
    table = out[out.index("1 of 3 points failed:") :].splitlines()
    assert "seed=1" in table[1]
    assert "failed" not in table[1]
    assert "seed=7" in table[2]
    assert "failed: ckpt_path=last" in table[2]
    assert "seed=0" in table[3]


def test_several_ranks_within_a_multirun_are_refused(command, base, tmp_path):
    for word in ("trainer.devices=2", "trainer=ddp_sim"):
        words = ["-m", *base, f"paths.log_dir={tmp_path}", word, "trainer.accelerator=cpu", "seed=0"]
        code, _, err = command(main, *words)
        assert (code, "in a multirun (-m) would be the whole sweep" in err) == (1, True), err
    assert runs(tmp_path) == []


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(6) as pool:
        key = RunKey("train", "sub/nested", False)
        folders = list(pool.map(lambda _: new_run_dir(key, tmp_path, env={}), range(6)))
    assert len(set(folders)) == 6
    assert all(folder.is_dir() and folder.parent == tmp_path / "train" / "runs" for folder in folders)


def test_an_experiment_in_a_folder_is_continued(command, base, tmp_path):
    (tmp_path / "c" / "experiment" / "sub").mkdir(parents=True)
    (tmp_path / "c" / "experiment" / "sub" / "nested.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /experiment/charades_nl\n  - _self_\n"
    )
    words = ["--config-dir", str(tmp_path / "c"), *base[1:], "experiment=sub/nested", f"paths.log_dir={tmp_path / 'l'}"]
    words += ["trainer.limit_train_batches=1"]
    for more in ([], ["ckpt_path=last", "trainer.max_epochs=2"]):
        code, _, err = command(main, *words, *more)
        assert code == 0, err
    (run,) = runs(tmp_path / "l")
    assert [int(row["step"]) for row in read_rows(run / "metrics.csv") if row["train/loss"]] == [1, 2]
    code, _, err = command(main, "--config-dir", str(tmp_path / "c"), "experiment=zzz")
    assert "known: sub/nested, " in err


def test_a_training_in_a_thread(base, tmp_path, capfd):
    outcome = []
    words = [*base, f"paths.log_dir={tmp_path}", "trainer.limit_train_batches=1"]
    thread = threading.Thread(target=lambda: outcome.append(train(load(words))))
    thread.start()
    thread.join()
    assert outcome[0][1]["trainer"].global_step == 1
    assert capfd.readouterr().out.count("not in the main thread: Ctrl-C and SIGTERM end this run at once") == 1


def test_a_module_of_the_working_folder(base, tmp_path, monkeypatch):
    (tmp_path / "my_own_callbacks.py").write_text(
        "from pytorch_lightning import Callback\n\n\nclass Mine(Callback):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    words = ["extras.allow_targets=[my_own_callbacks]", "+callbacks.mine._target_=my_own_callbacks.Mine"]
    _, objects = train(load([*base, *words, "trainer.limit_train_batches=1", f"paths.log_dir={tmp_path}"]))
    assert "Mine" in {type(callback).__name__ for callback in objects["trainer"].callbacks}


def start(*words, **environment):
    command = [sys.executable, *words]
    variables = {"PYTHONPATH": f"{ROOT}/src"} | environment
    return subprocess.run(command, env=os.environ | variables, capture_output=True, timeout=250)


def test_the_command_as_a_module_and_in_plain_characters(base, tmp_path):
    words = [word for word in base if not word.startswith("callbacks.progress")]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "120"}
    done = start("-m", "nlnet.cli.train", *words, f"paths.log_dir={tmp_path}", **plain)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout.isascii()
    assert json.loads((runs(tmp_path)[0] / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    "name", ["compare", "checkpoints.convert", "eval", "checkpoints.export", "explain", "predict", "prepare", "verify"]
)
@pytest.mark.full
def test_every_command_is_a_module(name):
    done = start("-m", f"nlnet.cli.{name}", "--help")
    assert (done.returncode, b"usage" in done.stdout.lower() or b"==" in done.stdout) == (0, True)


def test_an_interrupted_point_ends_the_multirun(base, tmp_path, monkeypatch, capfd):
    words = ["-m", *base, *killer("batch_start", 1, signal.SIGTERM), f"paths.log_dir={tmp_path}", "seed=0,1"]
    monkeypatch.setattr(sys, "argv", ["nlnet", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 143
    assert len(runs(tmp_path)) == 1
