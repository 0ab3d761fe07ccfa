"""One run folder, one process that writes in it."""

import errno
import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.processes import context, run_process, train_command
from nlnet.errors import UserError
from nlnet.runs.durability.run_lock import RunLock
from nlnet.saving import temporary_name


def hold(folder: str) -> None:
    RunLock(Path(folder))
    Path(folder, "held").touch()
    time.sleep(60)


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    process = context.Process(target=hold, args=(str(tmp_path),))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "held").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_told_who_writes_there(holder: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError) as raised:
        RunLock(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}: process {holder.pid} on {os.uname().nodename} is writing there; ")
    assert "paths.run_dir" in str(raised.value)
    assert time.monotonic() - began < 1
    RunLock(tmp_path.parent).release()  # another folder


def test_a_killed_ones_lock_is_taken_over_and_what_it_left_is_removed(
    holder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stray = temporary_name(tmp_path / "checkpoints" / "last.ckpt")
    stray.parent.mkdir()
    stray.touch()
    holder.kill()
    holder.join()
    assert holder.exitcode == -signal.SIGKILL
    lock = RunLock(tmp_path)
    assert capsys.readouterr().out == (
        f"{tmp_path}: process {holder.pid} on {os.uname().nodename} ended without a word; its lock is taken over\n"
    )
    assert not stray.exists()
    lock.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "held"]


def test_a_restarted_job_waits_for_its_processes_of_before(holder: Any, tmp_path: Path) -> None:
    context.Process(target=kill_later, args=(holder.pid,), daemon=True).start()
    RunLock(tmp_path, wait_s=30).release()
    holder.join(10)
    assert holder.exitcode == -signal.SIGKILL


def kill_later(process: int) -> None:
    time.sleep(1)
    os.kill(process, signal.SIGKILL)


def test_other_ranks_need_no_lock(holder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    RunLock(tmp_path).release()
    monkeypatch.delenv("RANK")
    with pytest.raises(UserError):
        RunLock(tmp_path)


def test_a_disk_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(descriptor: int, _: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    RunLock(tmp_path).release()
    assert "no locks on this disk (No locks available)" in capsys.readouterr().out


def test_a_network_file_system_that_locks_only_what_is_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, modes = fcntl.flock, list[int]()

    def flock(descriptor: int, operation: int) -> None:
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        if modes[-1] == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = RunLock(tmp_path)
    assert modes == [os.O_RDONLY, os.O_RDWR]
    with pytest.raises(UserError, match="is writing there"):
        RunLock(tmp_path)
    lock.release()


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(UserError, match="cannot be written"):
        RunLock(tmp_path / "run")
    assert victim.read_text() == "x"


def test_a_training_in_a_folder_where_one_runs_is_refused(holder: Any, charades_shards: Path, tmp_path: Path) -> None:
    words = ["experiment=charades_nl", "size=demo", f"data.shards={charades_shards}", f"paths.run_dir={tmp_path}"]
    log = tmp_path.parent / f"{tmp_path.name}.log"
    assert run_process(train_command, [*words, "data.num_workers=0", "data.batch_size=8"], str(log)) == 1
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert f"process {holder.pid}" in line
    assert "Traceback" not in log.read_text()
    assert not (tmp_path / "summary.json").exists()  # nothing of the other run is overwritten
