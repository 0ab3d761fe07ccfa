"""The built-in photographs: those of the installed wheel, and none of those held out among the others."""

from pathlib import Path

import pytest

from nlnet.data.restoration import photographs
from nlnet.data.restoration.folder import read_split
from nlnet.data.synthetic.make import ensure
from nlnet.errors import UserError


def test_they_are_split_and_whole(tmp_path: Path) -> None:
    folder = ensure(tmp_path, "photographs", print)
    found = {s: read_split(str(folder), "photographs", s, ("jpeg", "png")).paths for s in ("train", "val")}
    assert (sorted(found["train"]), sorted(found["val"])) == (sorted(photographs.TRAIN), sorted(photographs.HELD_OUT))
    content = {split: {path.read_bytes() for path in paths.values()} for split, paths in found.items()}
    assert len(content["train"] | content["val"]) == 12


def test_without_scikit_image_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"which is not installed: pip install 'nlnet\[restoration\]'"):
        ensure(tmp_path, "photographs", print)
    assert not (tmp_path / "synthetic" / "photographs-v1").exists()
