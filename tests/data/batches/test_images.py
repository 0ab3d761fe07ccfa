"""Batches of images: pixels and objects after mirroring and resizing, the order, what is left out, what fails."""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from helpers.coco import POINTS, write_coco
from helpers.preparing import settings
from helpers.servers import s3_at, s3_server
from nlnet.config.compose import compose
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.images import Frame, ImageBatches, frame, group_batches
from nlnet.data.batches.loader import BatchLoader
from nlnet.data.media.images import ImageError, decode_image
from nlnet.data.modules.base import ShardDataModule
from nlnet.data.modules.detection import DetectionDataModule
from nlnet.data.prepare.run import prepare
from nlnet.errors import UserError

SIDES: dict[str, Any] = {"short_sides": [48, 72], "max_size": 120, "num_workers": 0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def shards(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("shards")
    prepare(settings(source, out, "coco", samples_per_shard=4), lambda _: None)
    return str(out)


def plain(value: Any) -> Any:
    """A batch without its tensors, to be compared."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items() if name != "reading"}
    return [plain(part) for part in value] if isinstance(value, list) else value


def by_id(loader: BatchLoader) -> dict[int, tuple[torch.Tensor, dict[str, Any]]]:
    """Image id -> (image, target) of one pass."""
    found = {}
    for batch in loader:
        for image, target, weight in zip(batch["images"], batch["targets"], batch["weights"], strict=True):
            if weight:
                found[target["image_id"]] = image, target
    return found


def test_images_in_evaluation_are_the_stored_pixels_with_all_objects(source: Path, shards: str) -> None:
    data = DetectionDataModule(shards, batch_size=2, eval_short_side=48, val_split="train", **SIDES)
    assert (data.classes, data.category_ids, data.num_keypoints) == (("person", "kite"), (2, 7), 0)
    found = by_id(data.val_dataloader())
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    for k in (1, 4):  # as it is stored, whatever its EXIF says
        pixels = np.array(Image.open(source / "train2017" / f"{k:012d}.jpg"))
        assert torch.equal(found[k][0], torch.from_numpy(pixels).permute(2, 0, 1))
    assert found[3][0][0].equal(found[3][0][2])  # gray
    assert found[5][0].shape == (3, 72, 48)  # annotated upright, 40 x 60
    target = found[1][1]
    assert target["labels"].tolist() == [1, 2, 1]
    assert target["iscrowd"].tolist() == [0, 0, 1]
    assert target["boxes"].tolist() == [[4.5, 6.25, 30, 30.75], [30, 20, 38, 30], [2, 32, 22, 38]]
    assert target["area"].tolist() == [498, 80, 120]
    assert [mask.sum() for mask in target["masks"]][1:] == [80, 120]
    assert (target["orig_size"], target["scale"]) == ((48, 64), 1.0)
    assert "keypoints" not in target
    assert found[3][1]["boxes"].shape == (0, 4)
    assert found[3][1]["masks"].shape == (0, 48, 64)


def test_an_image_turned_by_its_exif_is_annotated_one_way_or_the_other(source: Path) -> None:
    data = (source / "train2017" / "000000000005.jpg").read_bytes()
    stored = Image.open(source / "train2017" / "000000000005.jpg").convert("RGB")
    assert stored.size == (60, 40)
    upright = np.asarray(decode_image(data, 40, 60))
    assert np.array_equal(upright, np.rot90(np.asarray(stored), -1))
    assert np.array_equal(np.asarray(decode_image(data, 60, 40)), np.asarray(stored))
    with pytest.raises(ImageError, match="mismatch: the image has 60 x 40 pixels, its annotations are of 41 x 60"):
        decode_image(data, 41, 60)


def test_a_training_image_and_its_objects_are_mirrored_and_resized_together(shards: str) -> None:
    data = DetectionDataModule(shards, batch_size=1, keypoints=True, skip_empty=False, **SIDES)
    assert (data.classes, data.keypoint_names, data.skeleton) == (("person",), tuple(POINTS), ((0, 1), (0, 2)))
    original = by_id(DetectionDataModule(shards, batch_size=1, eval_short_side=48, val_split="train",
                                         keypoints=True, **SIDES).val_dataloader())  # fmt: skip
    loader = data.train_dataloader()
    seen = set()
    for _ in range(24):  # epochs
        for k, (image, target) in by_id(loader).items():
            height, width = original[k][1]["orig_size"]
            flipped = _flipped(image, turned=k == 5)
            seen.add((k, image.shape[1] * image.shape[2], flipped))
            scale = np.array([image.shape[2] / width, image.shape[1] / height])
            assert scale == pytest.approx(target["scale"], rel=0.02)
            if k == 3:
                assert not len(target["boxes"])
                continue
            x1, y1, x2, y2 = np.array([4.5, 6.25, 30, 30.75]) * np.tile(scale, 2)
            points = np.array([[10, 8, 2], [6, 20, 1], [0, 0, 0]]) * [*scale, 1]
            if flipped:
                x1, x2 = image.shape[2] - x2, image.shape[2] - x1
                points = points[[0, 2, 1]]
                there = points[:, 2] > 0
                points[there, 0] = (width - 1) * scale[0] - points[there, 0]
            assert target["boxes"].numpy() == pytest.approx(np.array([[x1, y1, x2, y2]]))
            assert target["keypoints"].numpy() == pytest.approx(points[None])
            assert target["labels"].tolist() == [1]  # no crowd, no kite
            _mask_fills_its_box(target)
    assert len(seen) == 6 * 2 * 2


def _flipped(image: torch.Tensor, turned: bool) -> bool:
    """Red grows from left to right in an image as it is stored, and green from right to left in one that is turned."""
    left, right = (
        image[1 if turned else 0].float().split([image.shape[2] // 2, image.shape[2] - image.shape[2] // 2], 1)
    )
    return bool((left.mean() > right.mean()) != turned)


def _mask_fills_its_box(target: dict[str, Any]) -> None:
    rows, columns = torch.nonzero(target["masks"][0], as_tuple=True)
    extent = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert (extent - target["boxes"][0]).abs().max() <= 1.5


def test_sizes_keep_the_shape_within_the_maximum() -> None:
    assert frame(640, 480, 800, 1333, False)[2:4] == (1067, 800)
    assert frame(480, 640, 800, 1333, False)[2:4] == (800, 1067)
    assert frame(2000, 500, 800, 1333, False)[2:4] == (1333, 333)
    boxes = Frame(100, 50, 200, 100, True).boxes(np.array([[-5.0, 10.0, 25.0, 60.0]]))
    assert boxes.tolist() == [[160, 20, 200, 100]]


def test_a_folder_of_files_gives_the_batches_of_its_shards(source: Path, shards: str) -> None:
    chosen = SIDES | {"batch_size": 2, "keypoints": True, "seed": 3}
    one = DetectionDataModule(shards, **chosen)
    other = DetectionDataModule(str(source), **(chosen | {"num_workers": 1}))
    try:
        assert _summary(one) == _summary(other)
        assert [plain(batch) for batch in one.val_dataloader()] == [plain(batch) for batch in other.val_dataloader()]
        # The order is drawn by shard, so it is another one; the images of an epoch are the same to the last bit.
        found, wanted = by_id(one.train_dataloader()), by_id(other.train_dataloader())
        for k in found.keys() & wanted.keys():
            assert plain(list(found[k])) == plain(list(wanted[k]))
        assert len(found.keys() & wanted.keys()) >= 3
    finally:
        one.close()
        other.close()


def _summary(data: DetectionDataModule) -> dict[str, Any]:
    truth = data.ground_truth()
    listed = {kind: sorted(truth[kind], key=lambda row: row["id"]) for kind in ("images", "annotations", "categories")}
    return listed | {"keys": sorted(sample.key for sample in data.train.samples), "sigmas": data.sigmas}


def test_shards_in_an_object_store_give_the_same_batches_and_the_same_truth(shards: str) -> None:
    local = DetectionDataModule(shards, batch_size=2, **SIDES)
    with s3_server(Path(shards)) as address, s3_at(address):
        remote = DetectionDataModule("s3://videos/tiny", batch_size=2, **SIDES)
        for one, other in (
            (local.train_dataloader(), remote.train_dataloader()),
            (local.val_dataloader(), remote.val_dataloader()),
        ):
            assert [plain(batch) for batch in one] == [plain(batch) for batch in other]
        assert remote.ground_truth() == local.ground_truth()
        remote.close()


def test_ranks_workers_and_a_resume_do_not_change_batches(shards: str) -> None:
    chosen = SIDES | {"batch_size": 2, "aspect_groups": True}
    whole = [plain(batch) for batch in DetectionDataModule(shards, **chosen).train_dataloader()]
    data = DetectionDataModule(shards, **(chosen | {"num_workers": 2}))
    loader = data.train_dataloader()
    loader.load_state_dict({"epoch": 0, "t": 1})
    assert [plain(batch) for batch in loader] == whole[1:]
    data.close()
    view = data.view(train=True)
    shares = [
        ImageBatches(data.train, shards, view, data.categories, data.all_categories, RankSlice(2, rank, 2), 0, 8)
        for rank in range(2)
    ]
    for t, batch in enumerate(whole):
        parts = [plain(share[(0, t)]) for share in shares]
        assert [part["targets"][0] for part in parts] == batch["targets"]
        assert [part["images"][0] for part in parts] == batch["images"]


def test_groups_of_batches_keep_every_sample_and_mix_one_batch_at_most() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        count, size = int(rng.integers(1, 60)), int(rng.integers(1, 9))
        order, group_of = rng.permutation(count), rng.integers(0, 2, count).astype(bool)
        grouped = group_batches(order, group_of, size)
        assert sorted(grouped) == list(range(count))
        batches = grouped[: count // size * size].reshape(-1, size)
        assert sum(len(set(group_of[batch])) > 1 for batch in batches) <= 1
        assert np.array_equal(grouped, group_batches(order, group_of, size))
        # A sample moves only as far as its batch needs to fill.
        if group_of.all():
            assert np.array_equal(grouped, order)


def test_empty_images_are_left_out_of_training_alone(shards: str) -> None:
    chosen = SIDES | {"batch_size": 1}
    data = DetectionDataModule(shards, val_split="train", **chosen)
    assert (len(data.train.samples), len(data.val.samples)) == (5, 6)
    assert len(DetectionDataModule(shards, skip_empty=False, **chosen).train.samples) == 6
    truth = data.ground_truth()
    assert [row["id"] for row in sorted(truth["images"], key=lambda row: row["id"])] == [1, 2, 3, 4, 5, 6]
    assert sum(row["iscrowd"] for row in truth["annotations"]) == 5


def test_a_record_that_cannot_be_used_costs_its_slot_and_nothing_else(source: Path, tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    data = DetectionDataModule(str(folder), batch_size=5, aspect_groups=False, **SIDES)
    files = {int(sample.key): sample.key for sample in data.train.samples}
    (folder / "train2017" / f"{files[1]}.jpg").unlink()
    (folder / "train2017" / f"{files[2]}.jpg").write_bytes(b"GIF89a")
    notes = data._files[0].notes
    for k, change in ((4, {"bbox": [1, 1, -1, 1]}), (5, {"segmentation": [[0, 0, 1e7, 1e7, 0, 1e7]]})):
        content = json.loads(notes[files[k]])
        content["annotations"][0] |= change
        notes[files[k]] = json.dumps(content).encode()
    notes[files[6]] = b'{"image": [], "annotations": {"a": 1}}'
    [batch] = data.train_dataloader()
    assert dict(batch["failures"]) == {
        files[1]: "missing file",
        files[2]: "undecodable",
        files[4]: "malformed",
        files[5]: "malformed",
        files[6]: "malformed",
    }
    assert batch["weights"].tolist() == [0] * 5
    for image, target in zip(batch["images"], batch["targets"], strict=True):
        assert not image.any()
        assert target["boxes"].shape == (0, 4)
        assert target["image_id"] == -1


def test_settings_that_cannot_be(shards: str, source: Path, charades_shards: Path) -> None:
    for change, words in (
        ({"shards": shards + "/x-{000..001}.tar"}, "images need prepared shards"),
        ({"short_sides": []}, "needs short sides from 16 to the maximum"),
        ({"short_sides": [800], "max_size": 600}, "needs short sides from 16 to the maximum"),
        ({"batch_size": 7}, "data.batch_size=7 is more than the 5 training images"),
        ({"shards": str(source), "val_split": "test"}, "no annotations of a split test; known: train, val"),
        (
            {"shards": str(charades_shards), "dataset": "charades", "val_split": "test"},
            "shards for multilabel classification hold no objects",
        ),
    ):
        with pytest.raises(UserError, match=words.replace(".", r"\.")):
            DetectionDataModule(**({"shards": shards, "batch_size": 1} | change))  # type: ignore[arg-type]


def test_the_configuration_has_the_defaults_of_the_class() -> None:
    configured = OmegaConf.to_container(compose(["data=coco"]).data, resolve=True)
    assert isinstance(configured, dict)
    assert configured.pop("_target_") == "nlnet.data.modules.detection.DetectionDataModule"
    assert configured.pop("shards_variable") == "COCO_SHARDS"
    defaults = {}
    for module in (ShardDataModule, DetectionDataModule):
        parameters = inspect.signature(module).parameters.values()
        defaults |= {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    del defaults["allow_pipe"]  # images come in shards with a manifest only
    defaults |= {name: list(defaults[name]) for name in ("short_sides", "image_formats")}
    assert configured == defaults | {"shards": configured["shards"]}


def test_objects_without_what_the_evaluation_needs(shards: str) -> None:
    data = DetectionDataModule(shards, batch_size=1, keypoints=True, **SIDES)
    content = data.ground_truth()
    rows = [{k: v for k, v in row.items() if k not in ("area", "iscrowd", "keypoints", "num_keypoints")}
            for row in content["annotations"]]  # fmt: skip
    data._files = [dataclasses.make_dataclass("Files", ["ground_truth"])(lambda: {**content, "annotations": rows})] * 2
    row = data.ground_truth()["annotations"][0]
    assert (row["area"], row["iscrowd"]) == (25.5 * 24.5, 0)
    assert (row["keypoints"], row["num_keypoints"]) == ([0] * 9, 0)
