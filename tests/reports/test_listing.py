"""`nlnet-runs`: which runs there are, found quickly, filtered and ordered."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.run_folders import WHEN, write_run, write_table2a
from nlnet.cli.runs import main
from nlnet.reports.sources.find import find_runs
from nlnet.runs.durability.lock_holder import is_lost
from nlnet.runs.durability.run_lock import RunLock


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", lambda: WHEN + 7200.0)
    return tmp_path


def test_the_list_of_a_folder(command, here: Path) -> None:
    write_run(Path("logs/a/old"), "table2a_gaussian", age=86400, best=0.731, seconds=3600.0)
    write_run(Path("logs/b"), "charades_nl", seed=3, demo=True, monitor="val/mAP", metrics={"val/mAP": 0.5}, seconds=59)
    write_run(Path("logs/failed"), "", status="failed", age=60)
    (Path("logs") / "broken").mkdir()
    Path("logs/broken/summary.json").write_text("[]")
    code, out, err = command(main)
    assert code == 0
    assert out.splitlines() == [
        "status    experiment          seed  best            age    duration  where",
        "finished  charades_nl (demo)  3     val/mAP 0.5     2.0 h  59 s      b",
        "failed                        0                     2.0 h  1.7 min   failed",
        "finished  table2a_gaussian    0     val/top1 0.731  1.1 d  1 h       a/old",
    ]
    assert err == "cannot be read: logs/broken: its summary.json has no status; it is no run's\n"


def test_filters_and_orders(command, here: Path) -> None:
    list(write_table2a(Path("runs")))
    places = lambda *words: [line.split()[-1] for line in command(main, "runs", *words)[1].splitlines()]  # noqa: E731
    assert places("status=failed")[1:-1] == ["failed"]
    assert places("status=lost")[1:-1] == ["lost"]
    assert places("experiment=*_dot_*", "sort=where")[1:-1] == ["failed", "lost"]
    assert places("sort=oldest")[1] == "older"
    assert places("sort=newest")[-1] == "older"
    assert len(places()) == 1 + 11
    assert command(main, "runs", "experiment=none")[1] == "0 of 11 runs below runs\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs", "status=finish"], "status=finish: no run is that; nearest: finished"),
        (["runs", "sort=new"], "sort=new: there is no such order; nearest: newest"),
        (["runs", "stauts=failed"], "stauts=failed: neither a folder nor a setting of this command; nearest: status"),
        ([], "logs: there is no such folder"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, command, here: Path) -> None:
    write_run(Path("runs/a"), "table2a_gaussian")
    code, out, err = command(main, *words)
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_thousand_runs_are_quick(tmp_path: Path) -> None:
    """A second or so for the files; nothing is looked for below a run's own folder."""
    for number in range(1000):
        folder = tmp_path / f"{number % 10}" / f"{number}"
        folder.mkdir(parents=True)
        metrics = {f"val/metric{k}": 0.5 for k in range(30)}
        (folder / "summary.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))
    (folder / "nested").mkdir()
    (folder / "nested" / "summary.json").write_text("no run's")
    started = time.process_time()
    runs, broken = find_runs([tmp_path, tmp_path / "3"])
    assert (len(runs), broken) == (1000, [])
    assert time.process_time() - started < 3


def test_the_list_needs_no_torch() -> None:
    code = "import sys, nlnet.cli.runs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_run_is_lost_when_its_process_is_gone(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert not is_lost(tmp_path)
    lock.release()
    assert is_lost(tmp_path)
    with subprocess.Popen(["true"]) as gone:
        pass
    (tmp_path / ".lock").write_text(f"process {gone.pid} on {socket.gethostname()}\n")
    assert is_lost(tmp_path)
    (tmp_path / ".lock").write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    assert not is_lost(tmp_path)
    for text in ("process 99999999 on elsewhere\n", f"process {'9' * 40} on elsewhere", "", "\xff" * 1000):
        (tmp_path / ".lock").write_text(text)
        assert not is_lost(tmp_path)
    (tmp_path / ".lock").write_text(f"process {'9' * 40} on {socket.gethostname()}\n")
    assert is_lost(tmp_path)
