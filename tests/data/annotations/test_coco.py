"""COCO's annotation files: what is read from them, and every mistake in them at once, wherever they are used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.coco import CATEGORIES, PERSON, write_broken, write_coco, write_image
from nlnet.cli.prepare import main as prepare_command
from nlnet.cli.verify import main as lint_command
from nlnet.data.annotations.coco import find_mistakes, read_coco, split_of
from nlnet.data.annotations.coco_categories import PERSON_SIGMAS, Categories
from nlnet.data.annotations.coco_sides import mirrored
from nlnet.data.modules.detection import DetectionDataModule
from nlnet.errors import UserError

MISTAKES = {
    "annotation 10": "no such image: image_id is 99",
    "annotation 11": "no such category: category_id is 55",
    "annotation 12": "negative size: bbox is [5, 5, -3, 4]: width -3, height 4",
    "annotation 14": "duplicate annotation id: 2 records have it",
    "annotation 15": "bad keypoints: 4 numbers, expected 9 for 3 keypoints of its category",
    "annotation 16": "bad run lengths: run lengths of 10 pixels for 3072",
    "annotation 17": "bad run lengths: run lengths of 0 pixels for 3072",
    "annotation 18": "bad run lengths: size is [64, 48], the image has 48 x 64",
    "annotation 19": "bad box: bbox is [1, 2, 3], expected [x, y, width, height]",
    "annotation 20": "bad box: bbox is [1, 2, 3, '4'], expected [x, y, width, height]",
    "annotation 21": "bad keypoints: visibilities [3], expected 0, 1 or 2",
    "annotation 22": "bad polygon: a corner at 1e+08, far outside of the image",
}
LINES = {f"instances_train2017.json, {where}: {what}" for where, what in MISTAKES.items()}


def test_every_mistake_is_told_at_once_by_whatever_reads_the_file(tmp_path: Path, command: Callable[..., Any]) -> None:
    folder = write_broken(tmp_path / "in")
    found = {f"{p.where}: {p.cause}: {p.detail}" for p in find_mistakes(folder)}
    assert found == LINES
    with pytest.raises(UserError) as raised:
        DetectionDataModule(str(folder), val_split="train", batch_size=1)
    assert {line.strip() for line in str(raised.value).splitlines()[1:-1]} == LINES
    assert "12 mistakes (3 bad run lengths, 2 bad keypoints, 2 bad box, " in str(raised.value)
    code, _, err = command(prepare_command, "dataset=coco", f"source={folder}", f"out={tmp_path / 'out'}")
    assert code == 1
    assert {line.strip() for line in err.splitlines()} >= LINES
    assert not (tmp_path / "out").exists()
    code, out, _ = command(lint_command, str(folder))
    assert code == 1
    assert set(out.splitlines()[:-1]) == LINES


def test_images_that_are_not_there_are_told_before_training(tmp_path: Path, command: Callable[..., Any]) -> None:
    folder = write_coco(tmp_path)
    for name in ("train2017/000000000002.jpg", "train2017/000000000006.png", "val2017/000000000004.jpg"):
        (folder / name).unlink()
    with pytest.raises(UserError) as raised:
        DetectionDataModule(str(folder), batch_size=1)
    assert "3 mistakes (3 missing)" in str(raised.value)
    for where in ("train, 000000000002.jpg", "train, 000000000006.png", "val, 000000000004.jpg"):
        assert f"  {where}: missing: " in str(raised.value)
    assert f"  train, 000000000006.png: missing: no 000000000006.png in {folder}\n" in str(raised.value)
    # The other split's image is no stand-in.
    assert f"no 000000000002.jpg in {folder}; there is val2017/000000000002.jpg, another name" in str(raised.value)
    code, out, _ = command(lint_command, str(folder))
    assert code == 1
    assert out.count(": missing: ") == 3
    # What training does not use may be missing.
    assert len(DetectionDataModule(str(_with_val_images(folder)), train_split="val", batch_size=1).train.samples) == 3


def _with_val_images(folder: Path) -> Path:
    write_image(folder / "val2017" / "000000000004.jpg", 64, 48, 4)
    return folder


def test_instances_and_keypoints_of_an_object_become_one_record(tmp_path: Path) -> None:
    write_coco(tmp_path)
    read = read_coco(tmp_path)
    assert (read.task, read.classes) == ("detection", ("person", "kite"))
    assert read.details["categories"] == [PERSON, CATEGORIES[1]]
    assert [r.split for r in read.records][:2] == ["train", "train"]
    assert [r.video for r in read.records][:2] == ["000000000001.jpg", "000000000002.jpg"]
    assert {r.folder for r in read.records} == {"train2017", "val2017"}
    plain = json.loads((tmp_path / "annotations/instances_train2017.json").read_text())["annotations"]
    points = json.loads((tmp_path / "annotations/person_keypoints_train2017.json").read_text())["annotations"]
    by_id = {row["id"]: row for row in points}
    stored = [row for r in read.records if r.split == "train" for row in json.loads(r.notes)["annotations"]]
    assert stored == [by_id.get(row["id"], row) for row in plain]
    assert [r.labels for r in read.records][1:3] == [((0, 0.0, 1.0), (1, 0.0, 1.0)), ()]
    # Either file alone will do, too, and one file of any name.
    for path in (tmp_path / "annotations").glob("instances_*"):
        path.unlink()
    assert read_coco(tmp_path).classes == ("person",)
    one = (tmp_path / "annotations/person_keypoints_train2017.json").rename(tmp_path / "mine.json")
    assert {r.split for r in read_coco(one).records} == {"mine"}


def _change(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["images"].append(dict(c["images"][0])), "image 1: duplicate image id"),
        (lambda c: c["images"].append({**c["images"][0], "id": 9}), "000000000001.jpg: duplicate file"),
        (lambda c: c["images"][0].update(width=0), "image 1: bad image size"),
        (lambda c: c["images"][0].pop("height"), "image 1: bad image size"),
        (lambda c: c["images"][1].update(file_name=""), "image 2: no file name"),
        (lambda c: c["categories"].append(dict(CATEGORIES[0])), "category 2: duplicate category id"),
        (lambda c: c["categories"][0].update(keypoints="nose"), "category 2: bad keypoint names"),
        (lambda c: c["annotations"][0].update(id="x"), "annotation 'x': bad id"),
        (lambda c: c["annotations"][0].update(iscrowd=2), "annotation 100: bad iscrowd"),
        (lambda c: c["annotations"][0].update(area=-1), "annotation 100: bad area"),
        (lambda c: c["annotations"][0].update(segmentation="x"), "annotation 100: bad segmentation"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, float("nan"), 1]), "annotation 100: bad box"),
        (lambda c: c["annotations"][0].update(category_id=7), "contradiction: category_id is 7 and 2"),
        (lambda c: c.update(images={}), "it has no list of objects under 'images'"),
        (lambda c: c["categories"][1].update(name="dog"), "other categories"),
    ],
)
def test_one_mistake(tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    write_coco(tmp_path)
    _change(tmp_path / "annotations/instances_train2017.json", change)
    with pytest.raises(UserError) as raised:
        read_coco(tmp_path)
    assert words in str(raised.value)


def test_what_is_no_coco_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no instances_"):
        read_coco(tmp_path)
    (tmp_path / "instances_train2014.json").write_text("[1")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_coco(tmp_path)
    (tmp_path / "instances_train2014.json").write_text("[1]")
    with pytest.raises(UserError, match="it holds a list, expected an object"):
        read_coco(tmp_path)
    (tmp_path / "instances_train2017.json").write_text("{}")
    with pytest.raises(UserError, match="train2014 and train2017 are both the split train"):
        read_coco(tmp_path)


def test_the_same_file_in_two_places(tmp_path: Path) -> None:
    write_coco(tmp_path)
    inner = tmp_path / "annotations" / "instances_val2017.json"
    (tmp_path / inner.name).write_bytes(inner.read_bytes())
    with pytest.raises(UserError, match="are the same split; remove one"):
        read_coco(tmp_path)


def test_names_of_splits() -> None:
    assert [split_of(name) for name in ("train2017", "val2017", "test-dev2017", "minival_2014", "mine", "2017")] == [
        "train",
        "val",
        "test-dev",
        "minival",
        "mine",
        "2017",
    ]


def test_categories_say_what_follows_from_them() -> None:
    both = Categories((PERSON, CATEGORIES[1]))
    assert (both.ids, both.names, both.label_of) == ((2, 7), ("person", "kite"), {2: 1, 7: 2})
    persons = Categories.of(both.rows, with_keypoints=True, where="here")
    assert (persons.names, persons.skeleton) == (("person",), ((0, 1), (0, 2)))
    assert persons.sigmas() == (0.05, 0.1, 0.1)
    assert persons.sigmas([1, 2, 3]) == (1.0, 2.0, 3.0)
    with pytest.raises(UserError, match=r"data.sigmas=\[0.1\]: needs 3 positive numbers"):
        persons.sigmas([0.1])
    with pytest.raises(UserError, match=r"data.sigmas is not set, .* for nose, left_hand, right_hand"):
        Categories(({**PERSON, "sigmas": None},)).sigmas()
    with pytest.raises(UserError, match="no category names keypoints, which"):
        Categories.of((CATEGORIES[1],), with_keypoints=True, where="here")
    with pytest.raises(UserError, match="the categories person, dog have different keypoints"):
        Categories.of((PERSON, {"id": 3, "name": "dog", "keypoints": ["tail"]}), with_keypoints=True, where="here")


def test_tolerances_of_persons_are_those_of_pycocotools(media: Path) -> None:
    from pycocotools.cocoeval import Params

    content = json.loads((media / "image" / "coco_785.json").read_text())
    categories = Categories(tuple(content["categories"]))
    assert categories.sigmas() == PERSON_SIGMAS == pytest.approx(Params("keypoints").kpt_oks_sigmas, rel=1e-12)
    names = [categories.keypoint_names[k] for k in mirrored(categories.keypoint_names, None, "")]
    swapped = [n.replace("left", "?").replace("right", "left").replace("?", "right") for n in categories.keypoint_names]
    assert names == swapped
