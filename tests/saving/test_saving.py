"""Files that appear whole or not at all."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from nlnet.errors import UserError
from nlnet.saving import CannotWrite, replacing, sweep, temporary_name, write_bytes, write_json


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_takes_the_old_ones_place_after_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "a.json", list[str]()
    path.write_bytes(b"old")
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_sync(descriptor)

    def replace(source: Any, target: Any) -> None:
        calls.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert (temporary.parent, temporary.name[0]) == (tmp_path, ".")
    assert path.read_bytes() == b"new"
    assert calls == ["file", "rename", "folder"]
    assert left(tmp_path) == ["a.json"]


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    if where != "write":
        monkeypatch.setattr(os, where, fail)

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"new")
            if where == "write":
                fail()

    with pytest.raises(CannotWrite) as raised:
        write()
    monkeypatch.undo()
    assert isinstance(raised.value, UserError)
    assert str(raised.value).startswith(f"{path}: cannot be written: {os.strerror(number)}; ")
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == ["a.json"]


def test_an_error_of_the_program_leaves_the_old_file_too(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"new")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        write()
    assert (path.read_bytes(), left(tmp_path)) == (b"old", ["a"])


def test_links_are_followed_or_replaced_and_pipes_are_written_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_bytes(link, b"new")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"new")
    with replacing(link, follow_links=False) as temporary:
        temporary.write_bytes(b"own")
    assert (link.is_symlink(), link.read_bytes(), target.read_bytes()) == (False, b"own", b"new")
    write_bytes("/dev/null", b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(CannotWrite, match="Is a directory"):
        write_bytes(tmp_path, b"")
    write_bytes(tmp_path / ("ä" * 120), b"a long name")  # 240 bytes of the 255 that file systems take
    assert (tmp_path / ("ä" * 120)).read_bytes() == b"a long name"


def test_json_never_holds_what_json_does_not_have(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    write_json(tmp_path / "a.json", {"a": nan, "b": [1.5, -inf, (inf, "NaN")], "c": {"d": None, "e": True}})
    text = (tmp_path / "a.json").read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"a bare {name}"))
    assert read == {"a": None, "b": [1.5, None, [None, "NaN"]], "c": {"d": None, "e": True}}


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    stale = [temporary_name(tmp_path / "summary.json"), temporary_name(tmp_path / "checkpoints" / "last.ckpt")]
    mine = [".a.tmp", ".x.12345678.tmp.keep", "b.12345678.tmp", ".y.1234567g.tmp", ".lock"]
    for path in [*stale, *(tmp_path / name for name in mine)]:
        path.touch()
    (tmp_path / ".link.12345678.tmp").symlink_to(tmp_path / ".lock")
    (tmp_path / ".folder.12345678.tmp").mkdir()
    sweep(tmp_path)
    assert left(tmp_path) == sorted([*mine, ".folder.12345678.tmp", ".link.12345678.tmp", "checkpoints"])
    assert left(tmp_path / "checkpoints") == []
