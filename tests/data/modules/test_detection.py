"""Data for detection as people have them: layouts, parts that are missing, formats, and what is said at the start."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.coco import compressed, rectangle, write_coco, write_image
from helpers.oddities import KINDS, make, pictures
from helpers.preparing import settings
from nlnet.config.resolve import load
from nlnet.data.annotations.coco_categories import Categories
from nlnet.data.modules.detection import DetectionDataModule
from nlnet.data.prepare.folder import check_folder
from nlnet.data.prepare.run import prepare
from nlnet.data.verify.check import verify
from nlnet.errors import UserError
from nlnet.evaluation.coco import average_precisions

SMALL: dict[str, Any] = {"batch_size": 1, "num_workers": 0, "short_sides": [48], "max_size": 64}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def plain(shared: Path, tmp_path: Path) -> Path:
    return make(tmp_path / "plain", shared, KINDS["plain"], 0)


def change(folder: Path, split: str, **fields: Any) -> None:
    """Other values for fields of every object of a split; the first one is left as it is where `rest` is given."""
    path = folder / f"instances_{split}.json"
    content = json.loads(path.read_text())
    rest = fields.pop("rest", False)
    for row in content["annotations"][1 if rest else 0 :]:
        row |= fields
    path.write_text(json.dumps(content))


def perfect(truth: dict[str, Any], *more: str) -> list[dict[str, Any]]:
    names = ("image_id", "category_id", "bbox", *more)
    return [{name: row[name] for name in names} | {"score": 0.5} for row in truth["annotations"]]


def of_box(row: dict[str, Any]) -> dict[str, Any]:
    """The mask that fills the box."""
    return compressed(rectangle(48, 64, row["bbox"]))


def cases(media: Path) -> Path:
    found = media.parent / "cases" / "coco"
    if not found.is_dir():
        pytest.skip("the cases are not here")
    return found


def test_the_layout_of_roboflow(plain: Path, tmp_path: Path) -> None:
    for split, name in (("train", "train"), ("val", "valid")):
        content = json.loads((plain / f"instances_{split}.json").read_text())
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        for k, row in enumerate(content["annotations"]):
            row |= {"id": k, "segmentation": []}
        (plain / split).rename(plain / name)
        (plain / name / "_annotations.coco.json").write_text(json.dumps(content))
        (plain / f"instances_{split}.json").unlink()
    data = DetectionDataModule(str(plain), masks=False, **SMALL)
    assert (data.classes, data.category_ids) == (("things", "person", "kite"), (0, 1, 4))
    assert [len(m.samples) for m in (data.train, data.val)] == [5, 3]
    assert all(b["failures"] == [] for b in (*data.train_dataloader(), *data.val_dataloader()))
    truth = data.ground_truth()
    assert average_precisions(truth, perfect(truth), "box")["AP"] == pytest.approx(1)
    said: list[str] = []
    prepare(settings(plain, tmp_path / "out", "coco"), said.append)
    assert [line.split(",")[0] for line in said] == ["coco train: 5 images in 1 shard", "coco val: 3 images in 1 shard"]
    assert verify(str(tmp_path / "out")).findings == check_folder(plain) == []
    (plain / "train" / "_annotations.coco.json").write_text("[]")
    with pytest.raises(UserError, match=r"train/_annotations.coco.json, the file: no COCO file: it holds a list"):
        DetectionDataModule(str(plain), **SMALL)


def test_a_folder_of_neither_says_what_is_expected(plain: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (plain / f"instances_{split}.json").rename(plain / f"panoptic_{split}.json")
    with pytest.raises(UserError) as raised:
        DetectionDataModule(str(plain), **SMALL)
    for words in ("instances_NAME.json", "_annotations.coco.json", "there are panoptic_train.json, panoptic_val.json"):
        assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shards", [False, True])
def test_boxes_without_masks(plain: Path, tmp_path: Path, shards: bool) -> None:
    """Taken without data.masks, refused in one line with it; and a few without are left out, and counted."""
    for split in ("train", "val"):
        change(plain, split, segmentation=[], rest=split == "train")
    place = plain
    if shards:
        place = tmp_path / "out"
        prepare(settings(plain, place, "coco"), lambda _: None)
    data = DetectionDataModule(str(place), masks=False, **SMALL)
    assert any("9 of 10 objects have none; data.masks=true leaves them out" in line for line in data.remarks)
    with pytest.raises(UserError, match=r"no object of the split val has a mask .* model=faster_rcnn data.masks=false"):
        DetectionDataModule(str(place), masks=True, **SMALL)
    both = DetectionDataModule(str(place), masks=True, val_split="train", **SMALL)
    batches = list(both.train_dataloader())
    assert all(batch["failures"] == [] for batch in batches)
    assert sum(len(batch["targets"][0]["masks"]) for batch in batches) == 1
    shown = [mask.any() for batch in both.val_dataloader() for mask in batch["targets"][0]["masks"]]
    assert (len(shown), sum(shown)) == (10, 1)
    truth = both.ground_truth()
    assert average_precisions(truth, perfect(truth), "box")["AP"] == pytest.approx(1)
    # What has no mask is neither found nor missed, and nothing that is found there is wrong.
    found = [row | {"segmentation": of_box(row)} for row in perfect(truth)]
    without = [
        row | {"score": 0.9} for row, of in zip(found, truth["annotations"], strict=True) if not of["segmentation"]
    ]
    [masked] = [row for row, of in zip(found, truth["annotations"], strict=True) if of["segmentation"]]
    assert average_precisions(truth, [*without, masked], "mask")["AP"] == pytest.approx(1)
    assert average_precisions(truth, without, "mask")["AP"] == 0


def test_a_stray_polygon_is_left_out_of_the_mask(plain: Path) -> None:
    before = DetectionDataModule(str(plain), **SMALL)
    truth = before.ground_truth()
    masks = [batch["targets"][0]["masks"] for batch in before.val_dataloader()]
    content = json.loads((plain / "instances_val.json").read_text())
    for row in content["annotations"]:
        row["segmentation"].insert(0, [1, 2, 3, 4])
        row["segmentation"].append([])
    (plain / "instances_val.json").write_text(json.dumps(content))
    data = DetectionDataModule(str(plain), **SMALL)
    assert any("4 numbers, expected pairs" in line for line in data.remarks)
    assert all(torch.equal(a, b["targets"][0]["masks"]) for a, b in zip(masks, data.val_dataloader(), strict=True))
    results = [row | {"segmentation": of_box(row)} for row in perfect(truth)]
    assert average_precisions(truth, results, "mask")["AP"] == pytest.approx(1)
    assert average_precisions(data.ground_truth(), results, "mask") == average_precisions(truth, results, "mask")


def test_keypoints_that_nobody_has(plain: Path) -> None:
    change(plain, "train", keypoints=[0] * 9, num_keypoints=0)
    content = json.loads((plain / "instances_train.json").read_text())
    for row in content["annotations"]:
        if row["category_id"] == 4:
            del row["keypoints"]
    (plain / "instances_train.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"no object of the split train has a labeled keypoint, .* experiment=coco_mask"
    ):
        DetectionDataModule(str(plain), keypoints=True, **SMALL)


def test_pairs_are_asked_for_where_images_are_mirrored(plain: Path) -> None:
    for split in ("train", "val"):
        path = plain / f"instances_{split}.json"
        path.write_text(path.read_text().replace("left_hand", "a").replace("right_hand", "b"))
    with pytest.raises(UserError, match=r"data.flip_pairs=\[\[NAME,NAME\],\.\.\.\]"):
        DetectionDataModule(str(plain), keypoints=True, **SMALL)
    assert DetectionDataModule(str(plain), keypoints=True, flip=False, **SMALL).view(train=True).mirrored == ()
    given = DetectionDataModule(str(plain), keypoints=True, flip_pairs=[["a", "b"]], **SMALL)
    assert given.view(train=True).mirrored == (0, 2, 1)
    with pytest.raises(UserError, match="no keypoint 'c'; "):
        DetectionDataModule(str(plain), keypoints=True, flip_pairs=[["a", "c"]], **SMALL)


def test_nothing_to_train_on_is_said(plain: Path) -> None:
    path = plain / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [row | {"iscrowd": int(row["category_id"] == 1)} for row in content["annotations"]]
    content["annotations"][0] |= {"iscrowd": 0, "category_id": 4, "keypoints": None}
    path.write_text(json.dumps(content))
    data = DetectionDataModule(str(plain), **SMALL)
    data.categories = Categories.of(data.all_categories.rows, with_keypoints=True, where="")
    data.classes = data.categories.names
    with pytest.raises(UserError, match=r"none of the 5 images of the split train shows an object of person;"):
        data._without_empty(data.train)


def test_the_same_images_in_both_splits(plain: Path, tmp_path: Path) -> None:
    """As somebody has them who wants to see that a network can learn a few by heart."""
    (plain / "instances_val.json").write_text((plain / "instances_train.json").read_text())
    said: list[str] = []
    prepare(settings(plain, tmp_path / "out", "coco"), said.append)
    assert said[0] == "5 images are in train and val"
    data = DetectionDataModule(str(plain), **SMALL)
    assert sorted(data.train_keys) == sorted(data.val_keys)
    assert all(batch["failures"] == [] for batch in data.val_dataloader())


@pytest.mark.parametrize(("suffix", "kind"), [("tif", "TIFF"), ("bmp", "BMP"), ("webp", "WEBP")])
def test_other_formats_in_folders_and_in_shards(plain: Path, tmp_path: Path, suffix: str, kind: str) -> None:
    pixels = {}
    for split in ("train", "val"):
        for path in sorted((plain / split).iterdir()):
            image = Image.open(path)
            image.save(path.with_suffix(f".{suffix}"), kind, **({"lossless": True} if kind == "WEBP" else {}))
            pixels[path.stem] = np.asarray(image)
            path.unlink()
        path = plain / f"instances_{split}.json"
        path.write_text(path.read_text().replace(".jpg", f".{suffix}"))
    with pytest.raises(UserError, match=rf"8 format|\.{suffix} files are not read unasked; name it in data.image_form"):
        DetectionDataModule(str(plain), **SMALL)
    with pytest.raises(UserError, match=r"image_formats= of prepare"):
        prepare(settings(plain, tmp_path / "out", "coco"), lambda _: None)
    prepare(settings(plain, tmp_path / "out", "coco", image_formats=[suffix]), lambda _: None)
    for data in (
        DetectionDataModule(str(plain), image_formats=[suffix], **SMALL),
        DetectionDataModule(str(tmp_path / "out"), **SMALL),
    ):
        for batch in data.val_dataloader():
            assert batch["failures"] == []
            stored = pixels[data.val_keys[int(batch["indices"][0])]]
            assert torch.equal(batch["images"][0], torch.from_numpy(stored.copy()).permute(2, 0, 1))
    assert verify(str(tmp_path / "out")).findings == []


def test_a_manifest_that_is_named_itself(plain: Path, tmp_path: Path) -> None:
    prepare(settings(plain, tmp_path / "out", "coco"), lambda _: None)
    named = DetectionDataModule(str(tmp_path / "out" / "coco-train-manifest.json"), **SMALL)
    assert named.shards == str(tmp_path / "out")
    assert all(batch["failures"] == [] for batch in named.val_dataloader())


@pytest.mark.parametrize(
    ("words", "monitor"),
    [
        ([], "val/mask_AP"),
        (["model=faster_rcnn", "data.masks=false"], "val/box_AP"),
        (["model.name=faster_rcnn"], "val/box_AP"),
        (["experiment=coco_keypoint"], "val/keypoint_AP"),
        (["task.monitor=val/box_AP50"], "val/box_AP50"),
    ],
)
def test_the_monitor_follows_what_is_trained(words: list[str], monitor: str) -> None:
    cfg = load([*([] if "experiment=coco_keypoint" in words else ["experiment=coco_mask"]), "data.shards=x", *words])
    assert cfg.task.monitor == cfg.callbacks.best.monitor == cfg.optimized_metric == monitor


def test_the_cases(media: Path, tmp_path: Path) -> None:
    folder = cases(media)
    boxes: dict[str, Any] = {"masks": False, **SMALL, "max_size": 200, "batch_size": 4}
    for name in ("annotation_id_0/data", "categories_order/catkeys", "mpo_jpeg/data", "segmentation_empty/data",
                 "roboflow/data", "same_stem/p_mot"):  # fmt: skip
        out = tmp_path / name.split("/")[0]
        said: list[str] = []
        prepare(settings(folder / name, out, "coco"), said.append)
        assert not any("skipped" in line for line in said), (name, said)
        for place in (folder / name, out):
            data = DetectionDataModule(str(place), **boxes)
            assert list(data.remarks) == [], name
            assert all(b["failures"] == [] for b in (*data.train_dataloader(), *data.val_dataloader())), name
            truth = data.ground_truth()
            assert average_precisions(truth, perfect(truth), "box")["AP"] == pytest.approx(1), name
        assert check_folder(folder / name) == [], name
    wrong = folder / "boxes_out_of_range" / "b_normalised_boxes_0..1"
    with pytest.raises(UserError, match=r"none of the 32 objects of the split train can be used \(32 box in fractions"):
        DetectionDataModule(str(wrong), **boxes)


def test_photographs_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG is scaled while it is decoded, a PNG is refused with the name of the limit."""
    folder = write_coco(tmp_path / "in")
    write_image(folder / "train2017" / "000000000006.png", 80, 40, seed=6)
    monkeypatch.setenv("NLNET_MAX_PIXELS", "1000")
    data = DetectionDataModule(str(folder), **(SMALL | {"short_sides": [16], "max_size": 32}))
    for batch in data.val_dataloader():
        assert batch["failures"] == []
        assert batch["targets"][0]["orig_size"] in ((48, 64), (64, 48))
    failures = [pair for batch in data.train_dataloader() for pair in batch["failures"]]
    assert failures == [("000000000006", "too large")]
    said: list[str] = []
    prepare(settings(folder, tmp_path / "out", "coco"), said.append)
    assert "skipped 1 (1 too large)" in said[0]
    assert "set NLNET_MAX_PIXELS=3200" in (tmp_path / "out" / "failures.csv").read_text()
