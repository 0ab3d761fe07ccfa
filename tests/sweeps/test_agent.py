"""W&B's own agent and client against a stand-in of its server: what is typed, what fails, what is preempted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from omegaconf import OmegaConf

from conftest import ROOT
from helpers.signalling import killer
from helpers.wandb_server import Sweep, serving
from nlnet.reports.sources.find import find_runs
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.run_dir import read_record

COMMAND = """
method: grid
parameters: {seed: {values: [0]}}
command: ["${env}", "${interpreter}", -m, nlnet.cli.train, logger=wandb, group=mine, "tags=[mine]",
  "${args_no_hyphens}"]
"""


@pytest.fixture(scope="module")
def shared(charades_shards):
    """The settings of a training of four steps, as a sweep's parameters."""
    return {
        "experiment": "charades_nl", "size": "demo", "data.shards": str(charades_shards), "data.batch_size": 8,
        "data": {"num_workers": 0}, "trainer.max_epochs": 2, "trainer.limit_train_batches": 2,
        "trainer.limit_val_batches": 1, "trainer.log_every_n_steps": 1, "callbacks.progress": None,
    }  # fmt: skip


def learned(values):
    """What a run has logged, without what reading took."""
    return {key: value for key, value in values.items() if not key.startswith(("data/", "perf/"))}


def kill(number):
    """The parameters by which a run sends itself a signal in its third step, which is the first of one that goes on."""
    return dict(word.split("=") for word in killer("batch_start", 3, number))


def agent(sweep, folder, *flags, **more):
    """Run `wandb agent` in a folder until the server sends it away, or it has had enough; gives what it printed."""
    folder.mkdir(exist_ok=True)
    with serving(sweep) as address:
        variables = os.environ | address | {"PYTHONPATH": f"{ROOT}/src:{ROOT}/tests", "HOME": str(folder)} | more
        variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
        command = [sys.executable, "-m", "wandb", "agent", *flags, "me/nlnet/sweep1"]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=400)
    assert sweep.unknown == []
    return done.stdout + done.stderr


def losses(run):
    return [(row["trainer/global_step"], row["train/loss"]) for row in run.history if "train/loss" in row]


def points(run, name):
    return sorted((row["step"], row[name]) for row in run.curve([name]) if name in row)


def check_report(sweep, folders, home, monkeypatch):
    """What a report reads of W&B is what it reads of the folders."""
    with serving(sweep) as address:
        for key, value in {**address, "HOME": str(home), "WANDB_SILENT": "true"}.items():
            monkeypatch.setenv(key, value)
        found, _ = find_runs([Path("wandb:me/nlnet")])
        assert len(found) == 4
        for there in found:
            (here,), _ = find_runs([folders[there.folder.name]])
            for key in ("status", "experiment", "size", "seed", "monitor", "parameters", "gmacs"):
                assert there.record[key] == here.record[key], key
            assert there.number("seconds") == pytest.approx(here.number("seconds"), abs=5)  # each asks the clock
            assert (there.place, there.conditions) == (here.place, here.conditions)
            if here.status == "finished":
                names = ["val/mAP", "val/loss", "train/loss"]
                assert [there.metric(name) for name in names] == [here.metric(name) for name in names]
                assert [points(there, name) for name in names] == [points(here, name) for name in names]
        wandb.teardown()
    assert sweep.unknown == []


@pytest.mark.full
def test_agents_run_four_points_of_which_one_fails_and_two_are_preempted(shared, tmp_path, monkeypatch):
    points = [
        shared | {"seed": 1, "tags": ["a b", "c=d"]},
        shared | {"seed": 1, "optim.optimizer.lr": 1e30},
        shared | {"seed": 1} | kill(signal.SIGTERM),
        shared | {"seed": 1} | kill(signal.SIGUSR1),
    ]
    sweep = Sweep(COMMAND, points)
    agent(sweep, tmp_path / "one", "--count", "3")
    states = [(run.state, run.exit_code) for run in sweep.runs.values()]
    assert states == [("finished", 0), ("failed", 1), ("preempted", 1)]
    said = agent(sweep, tmp_path / "two")  # elsewhere, and without a word about where the runs are
    runs = list(sweep.runs.values())
    assert [run.state for run in runs] == ["finished", "failed", "finished", "finished"], said
    assert [[kind for kind, _ in run.starts] for run in runs] == [
        ["run"],
        ["run"],
        ["run", "resume"],
        ["run", "resume"],
    ]
    assert {"_wandb", "data", "optim"} <= runs[2].starts[1][1].keys()

    # As many folders as points, each with its own settings.
    paths = [*tmp_path.glob("one/logs/*/runs/*/"), *tmp_path.glob("two/logs/*/runs/*/")]
    folders = {read_record(path)["wandb_id"]: path for path in paths}
    assert (len(paths), folders.keys()) == (4, sweep.runs.keys())
    configs = [OmegaConf.load(folders[run.name] / "config.yaml") for run in runs]
    assert [list(cfg.tags) for cfg in configs] == [["a b", "c=d"], ["mine"], ["mine"], ["mine"]]
    assert [cfg.optim.optimizer.lr for cfg in configs[1:3]] == [1e30, configs[0].optim.optimizer.lr]
    assert [cfg.data.num_workers for cfg in configs] == [0] * 4
    assert "the loss is" in read_record(folders["run1"])["reason"]
    assert [run.shown["groupName"] for run in runs] == ["mine"] * 4
    assert all(run.shown["displayName"].startswith("experiment=charades_nl,size=demo,") for run in runs)

    # The end of the run that was never stopped.
    assert [step for step, _ in losses(runs[0])] == [0, 1, 2, 3]
    whole = learned(read_record(folders["run0"])["metrics"])
    for run in runs[2:]:
        assert losses(run) == losses(runs[0])
        assert learned(read_record(folders[run.name])["metrics"]) == whole
        own, others = (read_rows(folders[name] / "metrics.csv") for name in (run.name, "run0"))
        assert [learned(row) for row in own] == [learned(row) for row in others]

    check_report(sweep, folders, tmp_path, monkeypatch)


@pytest.mark.full
def test_a_run_that_the_server_stops_is_not_requeued(shared, tmp_path):
    sweep = Sweep(COMMAND, [shared | {"trainer.max_epochs": 100000}], stop_after=1)
    agent(sweep, tmp_path / "one")
    (run,) = sweep.runs.values()
    assert (run.state, run.preempting, [kind for kind, _ in run.starts]) == ("failed", False, ["run"])
    (folder,) = tmp_path.glob("one/logs/train/runs/*")
    assert read_record(folder)["status"] == "interrupted"
    assert (folder / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.full
def test_an_agent_runs_its_points_offline(shared, tmp_path):
    sweep = Sweep(COMMAND, [shared | {"seed": seed} for seed in (1, 2)])
    said = agent(sweep, tmp_path / "one", WANDB_MODE="offline")
    assert [[kind for kind, _ in run.starts] for run in sweep.runs.values()] == [["run"], ["run"]], said
    folders = {read_record(path)["wandb_id"]: path for path in tmp_path.glob("one/logs/train/runs/*")}
    assert folders.keys() == sweep.runs.keys()
    for seed, (name, run) in enumerate(sweep.runs.items(), 1):
        assert read_record(folders[name])["status"] == "finished"
        assert OmegaConf.load(folders[name] / "config.yaml").seed == seed
        assert len(list((folders[name] / "wandb").glob(f"offline-run-*-{name}"))) == 1
        assert run.history == []


FUNCTION = """
import json, sys
import wandb
from nlnet.config.resolve import load
from nlnet.runs.train import train

def point():
    with wandb.init() as run:
        train(load([*json.loads(sys.argv[1]), f"seed={run.config.seed}"]))

wandb.agent("me/nlnet/sweep1", function=point, count=2)
"""


@pytest.mark.full
def test_an_agent_calls_a_function(charades_shards, tmp_path):
    """`wandb.agent(function=...)`, which calls it in a thread of its own, within a run that it has begun."""
    sweep = Sweep("method: grid\nparameters: {seed: {values: [1, 2]}}", [{"seed": 1}, {"seed": 2}])
    words = [
        "experiment=charades_nl", "size=demo", f"data.shards={charades_shards}", "data.batch_size=8", "logger=wandb",
        "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
        "trainer.log_every_n_steps=1", "callbacks.progress=null", f"paths.log_dir={tmp_path}/logs",
    ]  # fmt: skip
    with serving(sweep) as address:
        variables = os.environ | address | {"PYTHONPATH": f"{ROOT}/src:{ROOT}/tests", "HOME": str(tmp_path)}
        command = [sys.executable, "-c", FUNCTION, json.dumps(words)]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert sweep.unknown == []
    folders = {read_record(path)["wandb_id"]: path for path in (tmp_path / "logs" / "train" / "runs").glob("*")}
    assert folders.keys() == sweep.runs.keys(), done.stdout + done.stderr
    for seed, (name, run) in enumerate(sweep.runs.items(), 1):
        assert (run.state, read_record(folders[name])["status"]) == ("finished", "finished")
        assert OmegaConf.load(folders[name] / "config.yaml").seed == seed
        assert [step for step, _ in losses(run)] == [0, 1]
