"""`src/sweep.py`: what is refused in a line, and a sweep of real trainings that is stopped half way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from conftest import ROOT
from nlnet.cli.sweep import main
from nlnet.runs.callbacks.metrics_csv import read_rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1"], "seed=1: name the sweep's file first"),
        (["table9"], "table9: there is no such sweep file; nearest: table"),
        (["search"], "only grid and random run without W&B"),
        (["table2a", "n=0"], "n=0: expected a whole number from 1"),
        (["table2a", "count=x"], "count=x: expected a whole number from 1"),
        (["table2a", "-m", "seed=1,2"], "-m: the sweep's file says what varies"),
        (["table2a", "modle.dropout=0"], "modle.dropout: there is no such key"),
        (["table2a", "experiment=table2a_gausian"], "there is no such experiment; nearest: table2a_gaussian"),
    ],
)
def test_a_mistake_gets_one_line_before_anything_starts(command, tmp_path, monkeypatch, words, message):
    monkeypatch.setenv("NLNET_LOG_DIR", str(tmp_path))
    code, _, err = command(main, *words)
    assert (code, message in err.strip().splitlines()[-1]) == (1, True), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
def test_a_sweep_that_is_stopped_and_started_again(charades_shards, tmp_path):
    parameters = {"experiment": {"value": "charades_nl"}, "model.nonlocal_blocks": {"values": [0, ["res3.0"]]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    settings = [
        "size=demo", f"data.shards={charades_shards}", "data.batch_size=8", "data.num_workers=0", "seed=0,1",
        "trainer.max_epochs=3", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1",
    ]  # fmt: skip
    command = [sys.executable, str(ROOT / "src" / "sweep.py"), str(tmp_path / "mine.yaml"), "n=2", *settings]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/src", "NLNET_LOG_DIR": str(tmp_path / "logs")}
    out = tmp_path / "logs" / "sweeps" / "mine"
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 200
        while not any(out.glob("*/metrics.csv")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        first.send_signal(signal.SIGTERM)
    assert first.returncode == 143
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in out.glob("*/summary.json")]
    assert [(record["status"], record["experiment"]) for record in records] == [("finished", "charades_nl")] * 4
    assert len([line for line in done.stdout.splitlines() if " finished " in line]) == 4
    for folder in (path.parent for path in out.glob("*/summary.json")):
        steps = [int(row["step"]) for row in read_rows(folder / "metrics.csv") if row["train/loss"]]
        assert steps == list(range(1, 13))
        blocks = yaml.safe_load((folder / "config.yaml").read_text())["model"]["nonlocal_blocks"]
        assert ("res3.0" in folder.name, "seed=" in folder.name) == (blocks == ["res3.0"], True)
