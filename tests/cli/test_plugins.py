"""Hydra's plugins, where they are installed: points in other processes, and a search."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT

SMALL = ["experiment=charades_nl", "size=demo", "trainer.max_epochs=1", "trainer.limit_train_batches=1",
         "trainer.limit_val_batches=1", "data.batch_size=8", "data.num_workers=0",
         "callbacks.progress=null"]  # fmt: skip
PLUGINS = {
    "hydra_joblib_launcher": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2"],
    "hydra_submitit_launcher": ["hydra/launcher=submitit_local", "seed=1,2"],
    "hydra_optuna_sweeper": ["hparams_search=optuna", "hydra.sweeper.n_trials=2"],
}


def installed(name):
    found = importlib.util.find_spec("hydra_plugins")
    return found is not None and importlib.util.find_spec(f"hydra_plugins.{name}") is not None


def sweep(shards, logs, *words):
    command = [
        sys.executable,
        ROOT / "src" / "train.py",
        "-m",
        *SMALL,
        f"data.shards={shards}",
        f"paths.log_dir={logs}",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}
    environment.pop("NLNET_RUN_DIR", None)
    ran = subprocess.run([*command, *words], env=environment, cwd=logs.parent, capture_output=True, text=True)
    return ran, [json.loads(path.read_text()) for path in (logs / "train" / "runs").glob("*/summary.json")]


@pytest.mark.full
@pytest.mark.parametrize("plugin", PLUGINS)
def test_points_are_trained_and_a_point_that_fails_is_an_error(plugin, charades_shards, tmp_path):
    if not installed(plugin):
        pytest.skip(f"{plugin.replace('_', '-')} is not installed")
    ran, records = sweep(charades_shards, tmp_path / "logs", *PLUGINS[plugin])
    assert ran.returncode == 0, ran.stderr
    assert [record["status"] for record in records] == ["finished"] * 2
    ran, records = sweep(charades_shards, tmp_path / "failing", *PLUGINS[plugin], "optimized_metric=val/typo")
    assert ran.returncode == 1
    assert ran.stderr.strip().splitlines()[-1].startswith("error: optimized_metric=val/typo: this task logs no such")
    assert records == []
