"""COCO's files in shards and back: records, images, and what is reported of both."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.coco import CATEGORIES, PERSON, write_coco
from helpers.preparing import digests, settings
from nlnet.cli.verify import main as verify_command
from nlnet.data.media.video import VideoInfo
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.coco import read_truth
from nlnet.data.shards.manifest import Manifest, write_manifest
from nlnet.data.shards.writer import RawSample, write_shard
from nlnet.data.verify.check import verify
from nlnet.data.verify.report import Options
from nlnet.errors import UserError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def shards(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    said: list[str] = []
    prepare(settings(source, out, "coco", samples_per_shard=4), said.append)
    assert [line.rpartition(",")[0] for line in said] == [
        "coco train: 6 images in 2 shards",
        "coco val: 3 images in 1 shard",
    ]
    return out


def read(folder: Path, split: str) -> Manifest:
    path = folder / f"coco-{split}-manifest.json"
    return Manifest.from_json(path.read_text(), str(path))


def members(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """The files in the shards, read by Python's own tar reader."""
    found = {}
    for shard in manifest.shards:
        with tarfile.open(folder / shard.name) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def released(source: Path, split: str) -> dict[str, Any]:
    """The two files of a split, put together by hand."""
    plain, points = (
        json.loads((source / "annotations" / f"{name}_{split}2017.json").read_text())
        for name in ("instances", "person_keypoints")
    )
    by_id = {row["id"]: row for row in points["annotations"]}
    rows = [by_id.get(row["id"], row) for row in plain["annotations"]]
    return {"images": plain["images"], "annotations": rows, "categories": [PERSON, CATEGORIES[1]]}


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_and_images_come_back_exactly(source: Path, shards: Path, split: str) -> None:
    manifest, wanted = read(shards, split), released(source, split)
    files = members(shards, manifest)
    assert (manifest.task, manifest.classes) == ("detection", ("person", "kite"))
    assert manifest.details["categories"] == wanted["categories"]
    records = [json.loads(data) for name, data in files.items() if name.endswith(".json")]
    images = sorted((record["image"] for record in records), key=lambda image: image["id"])
    rows = sorted((row for record in records for row in record["annotations"]), key=lambda row: row["id"])
    assert (images, rows) == (wanted["images"], wanted["annotations"])
    ground_truth = read_truth(manifest, str(shards))
    assert sorted(ground_truth["images"], key=lambda image: image["id"]) == wanted["images"]
    assert sorted(ground_truth["annotations"], key=lambda row: row["id"]) == wanted["annotations"]
    assert ground_truth["categories"] == wanted["categories"]
    stored = {name: data for name, data in files.items() if not name.endswith(".json")}
    assert stored == {path.name: path.read_bytes() for path in (source / f"{split}2017").iterdir()}
    for sample, image in ((s, i) for s in manifest.samples for i in images if int(s.key) == i["id"]):
        assert (sample.width, sample.height, sample.frames) == (image["width"], image["height"], 1)
        assert sample.labels == (() if image["id"] == 3 else ((0, 0.0, 1.0), (1, 0.0, 1.0)))


def test_a_real_image_comes_back_exactly(media: Path, tmp_path: Path) -> None:
    content = json.loads((media / "image" / "coco_785.json").read_text())
    chosen = settings(media / "image", tmp_path, "coco", annotations=media / "image" / "coco_785.json")
    prepare(chosen, lambda _: None)
    manifest = read(tmp_path, "coco_785")
    files = members(tmp_path, manifest)
    assert files.pop("000000000785.jpg") == (media / "image" / "000000000785.jpg").read_bytes()
    stored = json.loads(files.pop("000000000785.json"))
    assert (stored["image"], stored["annotations"]) == (content["images"][0], content["annotations"])
    assert manifest.details["categories"] == content["categories"]
    assert not files
    assert verify(str(tmp_path), Options(decode=1)).findings == []


def test_parts_give_the_same_bytes(source: Path, shards: Path, tmp_path: Path) -> None:
    chosen = {"samples_per_shard": 4, "workers": 1}
    for part in ("2/2", "1/2"):
        assert prepare(settings(source, tmp_path, "coco", part=part, **chosen), lambda _: None) == []
    prepare(settings(source, tmp_path, "coco", merge=True, **chosen), lambda _: None)
    assert digests(tmp_path) == digests(shards)


def test_images_that_cannot_be_used_are_counted_and_left_out_of_the_truth(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "in")
    (source / "train2017" / "000000000001.jpg").write_bytes(b"\xff\xd8\xff but no image")
    (source / "train2017" / "000000000003.jpg").unlink()
    for number, cut in ((4, 700), (6, 300)):
        path = next((source / "train2017").glob(f"*{number}.???"))
        path.write_bytes(path.read_bytes()[:cut])
    image = (source / "train2017" / "000000000002.jpg").read_bytes()
    (source / "train2017" / "000000000005.jpg").write_bytes(image)  # of another size
    said: list[str] = []
    prepare(settings(source, tmp_path / "out", "coco"), said.append)
    assert said[0].endswith("skipped 5 (3 undecodable, 1 missing, 1 mismatch)")
    manifest = read(tmp_path / "out", "train")
    assert [sample.key for sample in manifest.samples] == ["000000000002"]
    ground_truth = read_truth(manifest, str(tmp_path / "out"))
    assert [row["id"] for row in ground_truth["images"]] == [2]
    assert {row["image_id"] for row in ground_truth["annotations"]} == {2}


def test_shards_as_they_were_made_have_no_faults(shards: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    code, out, _ = command(verify_command, str(shards), "--decode", "1", "--html", str(tmp_path / "page.html"))
    assert code == 1  # training and validation share three images here
    assert out.count("duplicate: the same file as") == 3
    assert "coco train: 6 images in 2 shards; 2 classes, 0 of them empty; most frequent: person 5, kite 5" in out
    assert "fewer than" not in out
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 9
    assert verify(str(shards), Options(decode=1, duplicates=True)).findings == []


def _spoil(record: dict[str, Any], key: str) -> dict[str, Any]:
    """The records of a sample with a mistake, another one for each image."""
    rows = record["annotations"]
    if key.endswith("1"):
        rows[0]["bbox"][2] = -4
    elif key.endswith("2"):
        rows[1]["category_id"] = 99
    elif key.endswith("4"):
        rows[0]["keypoints"] = [1, 2, 2]
    elif key.endswith("5"):
        rows[0]["id"] = 4
    elif key.endswith("6"):
        rows[0]["segmentation"] = [[1, 2, "3", 4]]
    return record


def test_what_is_wrong_in_shards_is_told_together(shards: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    manifest = read(shards, "train")
    files = members(shards, manifest)
    raws = []
    for sample in manifest.samples:
        suffix = "png" if f"{sample.key}.png" in files else "jpg"
        record = _spoil(json.loads(files[f"{sample.key}.json"]), sample.key)
        info = VideoInfo(1, 1.0, sample.width, sample.height)
        notes = {name: record[name] for name in ("image", "annotations")}
        raws.append(RawSample(sample.key, files[f"{sample.key}.{suffix}"], info, sample.labels, suffix, notes))
    (tmp_path / "coco-train-annotations.json").write_bytes((shards / "coco-train-annotations.json").read_bytes())
    shard, samples = write_shard(tmp_path / "coco-train-000000.tar", 0, raws)
    spoilt = Manifest("coco", "train", "detection", manifest.classes, {}, (shard,), tuple(samples), manifest.details)
    write_manifest(tmp_path, spoilt)
    code, out, _ = command(verify_command, str(tmp_path))
    assert code == 1
    wanted = {
        "train/000000000001, annotation 100: negative size: bbox is [4.5, 6.25, -4, 24.5]: width -4, height 24.5",
        "train/000000000002, annotation 201: no such category: category_id is 99",
        "train/000000000004, annotation 400: bad keypoints: 3 numbers, expected 9 for 3 keypoints of its category",
        "train/000000000005: mismatch: its .json is not what the split's annotation file says",
        "train/000000000006, annotation 600: bad polygon: [1, 2, '3', 4] is no list of numbers",
    }
    assert {line for line in out.splitlines() if line.startswith("train/")} == wanted
    # The annotation file is held against the manifest, too.
    ground_truth = tmp_path / "coco-train-annotations.json"
    ground_truth.write_bytes(ground_truth.read_bytes().replace(b'"iscrowd":0', b'"iscrowd":1'))
    with pytest.raises(UserError, match="its SHA-256 is not the manifest's"):
        read_truth(spoilt, str(tmp_path))
    assert "its SHA-256 is not the manifest's" in command(verify_command, str(tmp_path))[1]
