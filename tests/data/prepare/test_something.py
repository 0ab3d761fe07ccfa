"""Something-Something's own files, with real tiny WebM videos, become shards that train."""

import json
from pathlib import Path

import pytest

from helpers.preparing import settings
from helpers.something import LABELS, write_something
from nlnet.data.annotations.something import read_something
from nlnet.data.media.video import probe
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.errors import UserError


@pytest.mark.parametrize("encode", ["h264", "copy"])
def test_its_folder_becomes_shards(tmp_path: Path, encode: str) -> None:
    root = write_something(tmp_path / "something")
    out = tmp_path / "shards"
    chosen = {"videos": root / "videos", "dataset": "something", "encode": encode}
    prepare(settings(root / "labels", out, **chosen), lambda line: None)
    for split, first, count in (("train", 10, 4), ("val", 20, 2)):
        path = out / f"something-{split}-manifest.json"
        manifest = Manifest.from_json(path.read_text(), str(path))
        assert manifest.task == "multiclass"
        assert manifest.classes == ("Holding something", "Pushing something left", "Putting something on something")
        assert {sample.key for sample in manifest.samples} == {str(first + k) for k in range(count)}
        for sample in manifest.samples:
            number = int(sample.key) - first
            assert sample.frames == 6 + number
            ((label, start, end),) = sample.labels
            assert (label, start) == ({0: 1, 1: 0, 2: 2}[number % 3], 0.0)
            assert end == pytest.approx(float(sample.times.end))
    assert not (out / "something-test-manifest.json").exists()
    assert probe(root / "videos" / "10.webm").frames == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels", "[]", r"labels\.json: expected the number of each class by its name"),
        ("labels", '{"a": "0", "b": "2"}', r"the numbers of its 2 classes are not 0 to 1"),
        ("train", "{}", r"train\.json: holds a dict, expected a list of videos"),
        ("train", '[{"id": 3, "template": "x"}]', r"train\.json, entry 0: .*: expected texts for id and template"),
        ("train", '[{"id": "3", "template": "Holding [a]"}]', r"entry 0: template 'Holding \[a\]' is not among the"),
        ("train", None, r"expected one file whose name ends in train\.json, there is none; it holds"),
        ("train", "[", r"train\.json: cannot be read as JSON"),
    ],
)
def test_wrong_annotations_are_one_line(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.json").write_text('[{"id": "1", "template": "Holding [something]"}]')
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    assert len(read_something(tmp_path).records) == 2
    path = tmp_path / f"{name}.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read_something(tmp_path)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"give the folder of \*train\.json"):
        read_something(tmp_path / "nowhere")
