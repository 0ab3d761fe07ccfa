"""A reader of the user's own: found by its name, and what it returns is checked before a file is looked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.coco import write_coco
from helpers.preparing import clip, settings
from nlnet.cli.prepare import main
from nlnet.data.annotations.readers import read_annotations
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.data.verify.check import verify
from nlnet.data.verify.report import Options
from nlnet.errors import UserError

MODULE = """
import json
from nlnet.data.annotations.coco import read_coco
from nlnet.data.annotations.records import Annotations, Record

number = 3

def read_videos(folder):
    rows = [line.split(",") for line in (folder / "mine.csv").read_text().split()]
    records = [Record(name, split, ((int(index), 0.0, 1.0),), (name,)) for name, split, index in rows]
    return Annotations(tuple(records), ("run", "jump"), "multiclass")

other = read_videos

def read_list(folder):
    return [folder.name]

def of(labels, task="multiclass", notes="", **details):
    return lambda _: Annotations((Record("v", "train", labels, ("v",), notes=notes),), ("run",), task, details)

class_2 = of(((2, 0.0, 1.0),))
backwards = of(((0, 2.0, 1.0),))
other_task = of((), task="multi")
no_notes = of((), task="detection", categories=[])
bad_notes = of((), task="detection", notes=json.dumps({"image": {"id": 1}, "annotations": []}), categories=[])
no_categories = of((), task="detection", notes=json.dumps({"image": {"id": 1}, "annotations": []}))

def read_images(folder):
    return read_coco(folder)
"""


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """`my_reader` can be imported."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "my_reader.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))


def manifest(folder: Path, split: str) -> Manifest:
    path = folder / f"mine-{split}-manifest.json"
    return Manifest.from_json(path.read_text(), str(path))


def test_videos_of_ones_own_become_shards(tmp_path: Path, command: Callable[..., Any]) -> None:
    for number, name in enumerate("abc"):
        (tmp_path / f"{name}.mp4").write_bytes(clip(number))
    (tmp_path / "mine.csv").write_text("a,train,0\nb,train,1\nc,val,1\n")
    out = tmp_path / "out"
    words = ("dataset=mine", "reader=my_reader.read_videos", f"source={tmp_path}", f"out={out}")
    code, said, err = command(main, *words)
    assert (code, err) == (0, "")
    assert said.startswith("mine train: 2 videos in 1 shard")
    train, val = manifest(out, "train"), manifest(out, "val")
    assert (train.task, train.classes) == ("multiclass", ("run", "jump"))
    assert {sample.key: sample.labels[0][0] for sample in (*train.samples, *val.samples)} == {"a": 0, "b": 1, "c": 1}
    # Another reader is another set of shards, as another encoding would be.
    with pytest.raises(UserError, match=r"reader=my_reader.read_videos then, my_reader.other now"):
        prepare(settings(tmp_path, out, "mine", reader="my_reader.other"))


def test_images_of_ones_own_become_shards(tmp_path: Path) -> None:
    source, out = write_coco(tmp_path / "in"), tmp_path / "out"
    prepare(settings(source, out, "mine", reader="my_reader.read_images"), lambda _: None)
    assert (manifest(out, "train").task, len(manifest(out, "train").samples)) == ("detection", 6)
    assert verify(str(out), Options(decode=1, duplicates=True)).findings == []


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        ("read_videos", "expected package.function or package.module.function"),
        ("no_such_package.read", "no_such_package cannot be imported .*; is its package installed here"),
        ("my_reader.read_video", "my_reader has no read_video; nearest: read_videos"),
        ("my_reader.number", "my_reader has a number that is no function"),
        ("my_reader.read_list", r"it returned \['.*'\] for .*, expected nlnet.data.annotations.records.Annotations"),
        ("my_reader.class_2", "v has class 2, expected 0 to 0"),
        ("my_reader.backwards", r"v has a label from 2.0 s to 1.0 s"),
        ("my_reader.other_task", "task 'multi'; nearest: multilabel, multiclass"),
        ("my_reader.no_notes", r"the notes of v are '', expected JSON"),
        ("my_reader.bad_notes", r"split train: 2 mistakes .*no file name"),
        ("my_reader.no_categories", r"it has no list of objects under 'categories'"),
    ],
)
def test_what_a_reader_got_wrong_is_one_message(tmp_path: Path, reader: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)^reader={reader}.*{words}"):
        read_annotations(tmp_path, "mine", reader)


def test_a_name_without_a_reader_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset=mine: no such data set; .*; for one of your own .* reader="):
        settings(tmp_path, tmp_path / "out", "mine")
    with pytest.raises(UserError, match=r"dataset=my/set: file names begin with it"):
        settings(tmp_path, tmp_path / "out", "my/set", reader="my_reader.read_videos")
