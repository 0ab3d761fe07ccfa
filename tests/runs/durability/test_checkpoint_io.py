"""Checkpoints written by processes that are killed while they write: one of the last two is always there and whole."""

import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.processes import context
from nlnet.checkpoints.files import read_file
from nlnet.errors import UserError
from nlnet.runs.durability.checkpoint_io import DurableCheckpointIO
from nlnet.saving import sweep
from nlnet.sealing import is_whole

SHARED_MEMORY = Path("/dev/shm")


def content(step: int, megabytes: float = 0.01) -> dict[str, Any]:
    """A checkpoint in which every number is `step`."""
    return {"state_dict": {f"layer{k}": torch.full((int(megabytes * 25_000),), step) for k in range(5)}, "step": step}


def step_of(path: Path) -> int:
    read = read_file(path)
    assert all(bool((value == read["step"]).all()) for value in read["state_dict"].values())
    return read["step"]


def save_for_ever(folder: str, megabytes: float) -> None:
    torch.set_num_threads(1)
    io = DurableCheckpointIO()
    for step in range(1, 10**6):
        io.save_checkpoint(content(step, megabytes), f"{folder}/last.ckpt")
        if step > 1:
            report = os.open(f"{folder}/done", os.O_WRONLY | os.O_CREAT)
            os.write(report, b"%9d" % step)  # one call, which a kill does not divide
            os.close(report)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another file system than the temporary one."""
    if not SHARED_MEMORY.is_dir() or os.stat(SHARED_MEMORY).st_dev == os.stat(tempfile.gettempdir()).st_dev:
        pytest.skip("no file system beside the one of the temporary folder")
    folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(("kills", "megabytes"), [(1, 8), pytest.param(40, 128, marks=pytest.mark.full)])
def test_killed_at_any_moment(elsewhere: Path, kills: int, megabytes: int) -> None:
    rng, strays = np.random.default_rng(kills), set(Path(tempfile.gettempdir()).iterdir())
    inside = 0
    for _ in range(kills):
        process = context.Process(target=save_for_ever, args=(str(elsewhere), megabytes))
        done = elsewhere / "done"
        done.unlink(missing_ok=True)
        process.start()
        deadline = time.monotonic() + 60
        while not done.is_file() and time.monotonic() < deadline:  # the first two of this process are there
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.01 * megabytes))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        inside += bool(list(elsewhere.glob(".*.tmp")))
        reported = int(done.read_text())
        last = elsewhere / "last.ckpt"
        assert step_of(last) in (reported, reported + 1)
        assert step_of(elsewhere / "last-1.ckpt") in range(reported - 1, reported + 2)
        sweep(elsewhere)
        assert sorted(path.name for path in elsewhere.iterdir()) == ["done", "last-1.ckpt", "last.ckpt"]
    assert inside or kills == 1  # at least one of many was killed while it wrote; a single one may fall between two
    new = {path for path in set(Path(tempfile.gettempdir()).iterdir()) - strays if re.match(r"tmp\w+$", path.name)}
    assert [path for path in new if path.is_file() and path.stat().st_size > 1 << 20] == []


@pytest.mark.parametrize("links", [True, False])
def test_the_one_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    io, last = DurableCheckpointIO(), tmp_path / "checkpoints" / "last.ckpt"
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    for step in (1, 2, 3):
        io.save_checkpoint(content(step), last)
        io.save_checkpoint(content(step), last.with_name("best.ckpt"))
    assert (step_of(last), step_of(last.with_name("last-1.ckpt"))) == (3, 2)
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.ckpt", "last-1.ckpt", "last.ckpt"]


def test_killed_between_the_two_renames(tmp_path: Path) -> None:
    """Both names are then one file; the next checkpoint leaves no third name of it."""
    last = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(content(1), last)
    os.link(last, tmp_path / "last-1.ckpt")
    DurableCheckpointIO().save_checkpoint(content(2), last)
    assert (step_of(last), step_of(tmp_path / "last-1.ckpt")) == (2, 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_one_does_not_take_the_place_of_the_good_one_before_it(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "last-1.ckpt"
    for step in (1, 2):
        DurableCheckpointIO().save_checkpoint(content(step), last)
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    DurableCheckpointIO().save_checkpoint(content(3), last)  # of a run that went on from the one before
    assert (step_of(last), step_of(previous)) == (3, 1)


def test_what_was_read_and_checked_is_not_read_again(tmp_path: Path) -> None:
    io, path = DurableCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint(content(1), path)
    read = read_file(path)
    io.hand_over(path, read)
    path.write_bytes(b"something else by now")
    assert io.load_checkpoint(path, weights_only=True) is read
    with pytest.raises(UserError, match="not a checkpoint") as raised:
        io.load_checkpoint(path, weights_only=True)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("kind", ["folder", "local", "file", "up", "link"])
def test_only_single_files_are_removed(tmp_path: Path, kind: str) -> None:
    io, victim = DurableCheckpointIO(), tmp_path / "precious"
    (victim / "inner").mkdir(parents=True)
    (victim / "inner" / "file").write_text("x")
    run = tmp_path / "checkpoints"
    io.save_checkpoint(content(1), run / "mine.ckpt")
    (run / "link.ckpt").symlink_to(victim / "inner" / "file")
    names = {"folder": victim, "local": f"local://{victim}", "file": f"file://{victim}/inner/file"}
    io.remove_checkpoint(names.get(kind, run / {"up": "../precious/inner/file", "link": "link.ckpt"}.get(kind, "")))
    assert (victim / "inner" / "file").read_text() == "x"
    io.remove_checkpoint(str(run / "mine.ckpt"))
    assert not (run / "mine.ckpt").exists()


def test_an_object_stores_checkpoints_are_left_to_lightning() -> None:
    io, url = DurableCheckpointIO(), "memory://bucket/run/a.ckpt"
    io.save_checkpoint(content(4), url)
    assert io.load_checkpoint(url)["step"] == 4
    io.remove_checkpoint(url)
    with pytest.raises(FileNotFoundError):
        io.load_checkpoint(url)
    assert not is_whole(Path(url))
