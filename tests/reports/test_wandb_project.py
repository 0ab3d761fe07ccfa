"""A report of W&B's runs is that of the same runs' folders; its own client asks a stand-in of the server."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

from helpers.run_folders import write_run, write_table2a, write_test
from helpers.wandb_server import Run, Sweep, serving
from nlnet.cli.report import main
from nlnet.cli.runs import main as list_runs
from nlnet.reports.sources.find import find_runs
from nlnet.reports.write import FILES

PROJECT = "wandb:me/nlnet"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """A project without runs, which this process finds, and an empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    found = Sweep("", [])
    with serving(found) as address:
        for key, value in {**address, "HOME": str(tmp_path), "WANDB_SILENT": "true"}.items():
            monkeypatch.setenv(key, value)
        yield found
        wandb.teardown()
    assert found.unknown == []


def logged(folder: Path, name: str) -> Run:
    """What W&B has of the run of this folder."""
    record = json.loads((folder / "summary.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"size_name": record["size"], "paths": {"run_dir": str(folder.absolute())}}
    run = Run(name, config={key: {"value": value} for key, value in config.items()})
    run.summary = dict(record["metrics"])
    run.summary |= {key: record[key] for key in ("monitor", "seconds", "parameters", "gmacs") if key in record}
    run.created = datetime.fromtimestamp((folder / "summary.json").stat().st_mtime, UTC).isoformat()[:19] + "Z"
    run.state = {"running": "crashed"}.get(record["status"], record["status"])
    if (folder / "metrics.csv").is_file():
        for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines()):
            values = {key: float(cell) for key, cell in row.items() if cell and key != "step"}
            run.summary = values | run.summary  # the last of each
            run.history.append({"trainer/global_step": int(row["step"]) - 1} | values)
    return run


def texts(out: str) -> list[str]:
    return [(Path(out) / name).read_text() for name in FILES]


def test_the_report_of_a_project_is_that_of_the_folders(command, sweep: Sweep) -> None:
    """Figures, notes and curves; without the reason of a failure, which W&B does not have. And of a mixture."""
    folders = list(write_table2a(Path("runs")))
    folders.append(write_test(Path("runs/tested"), folders[0], "30view", {"val/top1": 0.75, "val/top5": 0.9}))
    folders.append(write_run(Path("runs/mine"), "mine", monitor="val/mAP", metrics={"val/mAP": 0.25}, gmacs=1.5))
    sweep.runs = {folder.name: logged(folder, folder.name) for folder in folders}
    assert command(main, "runs", "out=a")[0] == 0
    code, out, err = command(main, PROJECT, "out=b")
    assert (code, err) == (0, "")
    assert "not counted: wandb:me/nlnet/lost: says it is running, and its process is gone" in out
    expected = [
        text.replace("runs/", f"{PROJECT}/").replace("failed: UserError: no space", "failed") for text in texts("a")
    ]
    assert texts("b") == expected
    assert expected[2].count("<svg") > 4

    for folder in folders[::2]:
        del sweep.runs[folder.name]
    for folder in folders[1::2]:
        (folder / "summary.json").unlink()
    assert command(main, "runs", PROJECT, "out=c")[0] == 0
    assert texts("c")[1] == expected[1]


def test_all_pages_are_read_and_the_list_is_theirs_too(command, sweep: Sweep) -> None:
    run = write_run(Path("run"), "table2a_gaussian", metrics={"val/top1": 0.5})
    sweep.runs = {f"r{k}": logged(run, f"r{k}") for k in range(120)}
    code, out, _ = command(list_runs, PROJECT, "status=finished")
    assert (code, len(out.splitlines())) == (0, 121)
    assert "val/top1 0.5" in out


def odd_runs(good: Run, value: Any) -> Iterator[Run]:
    """Runs that have this value for something that a report reads."""
    settings = ["experiment_name", "seed", "size_name", "typed", "protocol", "ckpt_path", "paths", "task", "demo"]
    figures = ["val/top1", "monitor", "seconds", "parameters", "gmacs", "_runtime"]
    yield Run("", config=dict.fromkeys(settings, value), state="finished")
    yield Run("", config=good.config | {"seed": 5}, summary=dict.fromkeys(figures, value), state="finished")
    history = [{"trainer/global_step": value, "train/loss": 1}, {"trainer/global_step": 1, "train/loss": value}]
    yield Run("", good.starts, good.config, good.shown, history, {"train/loss": 1}, state="finished")
    yield Run("", created=f"{value}"[:40], state=f"{value}"[:40])


def test_no_value_ends_a_report(command, sweep: Sweep) -> None:
    good = logged(write_run(Path("good"), "table2a_gaussian", metrics={"val/top1": 0.5, "val/top5": 0.6}), "good")
    values = (None, [], "x\n| y |", {"a": []}, 10**400, float("nan"), True, -1)
    odd = [run for value in values for run in odd_runs(good, value)]
    for k, run in enumerate(odd):
        run.name = f"odd{k}"
    good.created = "2030-01-01T00:00:00"
    sweep.runs = {run.name: run for run in [good, *odd]}
    code, out, err = command(main, PROJECT, "out=out")
    assert (code, err) == (0, "")
    assert "not counted: wandb:me/nlnet/odd2: a newer run has the same seed" in out
    assert "| Gaussian | 50.0 | 60.0 |" in texts("out")[0]
    assert "\n| y |" not in texts("out")[0]


def test_a_project_that_is_not_there(command, sweep: Sweep) -> None:
    said = "there is no such project that this key may read; check ENTITY/PROJECT and the key"
    assert command(main, "wandb:me/other") == (1, "", f"error: wandb:me/other: {said}\n")


def test_without_a_key_one_is_asked_for(command, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    code, out, err = command(main, PROJECT)
    assert (code, out, len(err.splitlines())) == (1, "", 1), err
    assert "No API key configured" in err
    assert "check the key (`wandb login`, WANDB_API_KEY)" in err


@pytest.mark.full
def test_an_address_where_nobody_answers_is_one_line(tmp_path: Path) -> None:
    address = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_HTTP_TIMEOUT": "2"}
    command = [sys.executable, "-m", "nlnet.cli.report", PROJECT]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | address, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert f"{PROJECT}: W&B does not give its runs: " in done.stderr
    assert "the network and WANDB_BASE_URL" in done.stderr


def test_the_newest_runs_of_a_large_project(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nlnet.reports.sources.wandb_project._MOST", 2)
    sweep.runs = {f"r{k}": Run(f"r{k}", created=f"2024-01-0{k}T00:00:00Z") for k in (2, 1, 3)}
    runs, notes = find_runs([Path(PROJECT)])
    assert [run.folder.name for run in runs] == ["r2", "r3"]
    assert notes == [f"{PROJECT}: only its newest 2 runs are read"]
