"""Sweepers as real processes; their trainings only keep the folder's contract. Scheduling, stops, kills, sharing."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from helpers.processes import context
from nlnet.errors import RunInterrupted
from nlnet.runs.run_dir import read_record
from nlnet.sweeps.points import Point
from nlnet.sweeps.sweeper import CLAIMS, Sweeper

STUB = [sys.executable, str(ROOT / "tests" / "helpers" / "stub_training.py")]


def sweep(words, out, at_once, log):
    """A sweeper of these points, as a process runs it; its exit code says how it ended."""
    sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115 - until the process ends
    points = [Point(name, tuple(of.split())) for name, of in words.items()]
    try:
        results = Sweeper(points, Path(out), STUB, at_once).run()
    except RunInterrupted as stop:
        sys.exit(128 + stop.signal)
    sys.exit(sum(result.status == "failed" for result in results))


def start(words, out, at_once=1, log="log"):
    process = context.Process(target=sweep, args=(words, str(out), at_once, str(out / log)))
    out.mkdir(exist_ok=True)
    process.start()
    return process


def ended(process, timeout=60):
    process.join(timeout)
    assert not process.is_alive()
    return process.exitcode


def history(out, name):
    path = out / name / "history"
    return path.read_text().splitlines() if path.is_file() else []


def starts(out, name):
    return [line for line in history(out, name) if line.startswith("start")]


def wait_for(condition, timeout=30):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def all_finished(out, names):
    return all(read_record(out / name).get("status") == "finished" for name in names)


WHOLE = ["start 0", "step 1", "step 2", "step 3"]


def test_every_point_runs_once_in_its_folder_and_again_nothing_does(tmp_path):
    words = {f"i={i}": f"i={i}" for i in range(4)}
    assert ended(start(words, tmp_path, at_once=2)) == 0
    assert {name: history(tmp_path, name) for name in words} == dict.fromkeys(words, WHOLE)
    said = (tmp_path / "log").read_text()
    assert len(re.findall(r"^\[\d/4\] i=\d: finished  0\.5000  in 0:00:01", said, re.M)) == 4
    assert re.search(r"^\[2/4\] .*; 2 left, ETA 0:00:\d\d$", said, re.M)
    assert ended(start(words, tmp_path)) == 0
    assert {name: history(tmp_path, name) for name in words} == dict.fromkeys(words, WHOLE)
    assert "4 of 4 points are finished already" in (tmp_path / "log").read_text()


def test_a_point_that_fails_ends_no_other_and_is_tried_again(tmp_path):
    words = {"bad": "fail=/", "good": ""}
    assert ended(start(words, tmp_path)) == 1
    assert "bad: failed: it was told to; 1 left" in (tmp_path / "log").read_text()
    assert history(tmp_path, "good") == WHOLE
    assert ended(start(words | {"bad": ""}, tmp_path)) == 0
    assert history(tmp_path, "bad") == ["start 0", "step 1", "start 1", "step 2", "step 3"]
    assert history(tmp_path, "good") == WHOLE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_lets_runs_write_their_checkpoint_and_the_next_start_goes_on(tmp_path, number):
    words = {f"i={i}": "steps=8" for i in range(3)}
    first = start(words, tmp_path, at_once=2)
    wait_for(lambda: len(history(tmp_path, "i=0")) > 3 and len(history(tmp_path, "i=1")) > 3)
    os.kill(first.pid, number)
    assert ended(first) == 128 + number
    assert {read_record(tmp_path / f"i={i}").get("status") for i in range(2)} == {"interrupted"}
    assert history(tmp_path, "i=2") == []
    assert ended(start(words, tmp_path, at_once=2)) == 0
    for name in words:
        assert [line for line in history(tmp_path, name) if "step" in line] == [f"step {i + 1}" for i in range(8)]
        assert "met another" not in history(tmp_path, name)
    assert len(starts(tmp_path, "i=0")) == 2


def test_two_sweepers_of_which_one_is_killed_lose_no_point_and_do_none_twice(tmp_path):
    words = {f"i={i}": "steps=6" for i in range(8)}
    both = [start(words, tmp_path, 2, log=f"log{i}") for i in range(2)]
    wait_for(lambda: sum(bool(history(tmp_path, name)) for name in words) >= 4)
    os.kill(both[0].pid, signal.SIGKILL)  # its two runs live on, and are not taken while they do
    both[0].join()
    assert ended(both[1]) == 0
    assert all_finished(tmp_path, words)
    once = ["start 0", *(f"step {i + 1}" for i in range(6))]
    assert {name: history(tmp_path, name) for name in words} == dict.fromkeys(words, once)
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != CLAIMS}
    assert folders == words.keys()


def test_what_is_killed_together_with_its_runs_is_continued_by_the_other(tmp_path):
    words = {"long": "steps=100000", "short": ""}
    first = start(words, tmp_path, 1, log="first")
    wait_for(lambda: len(history(tmp_path, "long")) > 3)
    second = start(words, tmp_path, 1, log="second")
    wait_for(lambda: (tmp_path / "second").is_file() and "waiting for them" in (tmp_path / "second").read_text())
    os.kill(first.pid, signal.SIGKILL)
    os.kill(int((tmp_path / "long" / "process").read_text()), signal.SIGKILL)
    (tmp_path / "long" / "here").rmdir()
    wait_for(lambda: len(starts(tmp_path, "long")) == 2)
    os.kill(second.pid, signal.SIGTERM)
    assert ended(second) == 143
    assert starts(tmp_path, "long")[0] == "start 0"
    assert int(starts(tmp_path, "long")[1].split()[1]) > 2
    assert history(tmp_path, "short") == WHOLE


def test_a_point_that_fails_in_one_sweeper_is_not_tried_by_the_other_at_once(tmp_path):
    words = {"bad": f"steps=100000 fail={tmp_path}/now", "good": ""}
    both = [start(words, tmp_path, log="first")]
    wait_for(lambda: history(tmp_path, "bad"))
    both.append(start(words, tmp_path, log="second"))
    wait_for(lambda: history(tmp_path, "good"))
    (tmp_path / "now").touch()
    assert [ended(process) for process in both] == [1, 1]
    assert starts(tmp_path, "bad") == ["start 0"]
    assert "bad: failed: it was told to" in (tmp_path / "second").read_text()
