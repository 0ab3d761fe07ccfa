"""The built-in images: the same bytes each time, and annotations that are right to a pixel."""

from pathlib import Path

import numpy as np
import pytest

from helpers.preparing import digests
from nlnet.data.annotations.coco_check import check_content
from nlnet.data.annotations.coco_masks import polygon_mask
from nlnet.data.modules.detection import DetectionDataModule
from nlnet.data.synthetic import make
from nlnet.data.synthetic import shapes as synthetic_shapes
from nlnet.data.synthetic.shapes import CATEGORIES, SIZE, annotation, render
from nlnet.data.verify.check import verify
from nlnet.data.verify.report import Options
from nlnet.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "whole"
    synthetic_shapes.build(out, {"train": 64, "val": 17})
    return out


def test_the_same_bytes_each_time_and_other_images_for_validation(folder: Path, tmp_path: Path) -> None:
    synthetic_shapes.build(tmp_path / "again", {"train": 64, "val": 17})
    assert digests(tmp_path / "again") == digests(folder)
    assert verify(str(folder), Options(decode=1)).findings == []  # no image twice, and none in both splits
    assert not np.array_equal(render("train", 0, seed=1)[0], render("train", 0, seed=2)[0])


def test_annotations_are_right_to_a_pixel() -> None:
    """A shape stands out from what surrounds it exactly where its polygon says."""
    counts = np.zeros(len(CATEGORIES), int)
    for index in range(48):
        pixels, shapes = render("train", index)
        assert (not shapes) == (index % 16 == 15)
        covered = np.zeros((SIZE, SIZE), int)
        for shape in shapes:
            counts[shape.category] += 1
            row = annotation(shape, 1, 1)
            mask = polygon_mask(row["segmentation"], SIZE, SIZE).astype(bool)
            covered += mask
            assert mask.sum() == pytest.approx(row["area"], rel=0.03)
            y, x = np.nonzero(mask)
            extent = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            assert row["bbox"] == pytest.approx(extent, abs=2.5)  # a sharp corner fills no pixel
            grown = np.pad(mask, 3)
            shifts = [np.roll(grown, (a, b), (0, 1))[3:-3, 3:-3] for a in (-3, 0, 3) for b in (-3, 0, 3)]
            inside, around = np.logical_and.reduce(shifts), np.logical_or.reduce(shifts) & ~mask
            values = pixels.astype(float)
            assert values[inside].std(0).max() < 15  # one color, in changing light
            assert np.abs(values[inside].mean(0) - values[around].mean(0)).max() > 20
        assert covered.max(initial=0) <= 1
    assert counts.min() > 20


def test_keypoints_are_the_corners_and_change_sides_in_a_mirror(folder: Path) -> None:
    data = DetectionDataModule(
        str(folder), batch_size=1, keypoints=True, short_sides=[128], max_size=128, num_workers=0
    )
    assert (data.classes, data.category_ids, data.sigmas) == (("triangle",), (4,), (0.1, 0.1, 0.1))
    loader, triangles = data.train_dataloader(), 0
    for _ in range(2):
        for batch in loader:
            [target] = batch["targets"]
            for (tip, left, right), box in zip(target["keypoints"].tolist(), target["boxes"].tolist(), strict=True):
                triangles += 1
                assert tip[1] < min(left[1], right[1])
                assert left[0] < right[0]  # seen from the front, in the mirror too
                points = np.array([tip, left, right])
                assert np.abs(points.min(0)[:2] + 0.5 - box[:2]).max() < 0.02
                assert np.abs(points.max(0)[:2] + 0.5 - box[2:]).max() < 0.02
    assert triangles > 40
    assert check_content(data.ground_truth()) == []


def test_made_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_shapes, "SPLITS", {"train": 17, "val": 3})
    said: list[str] = []
    made = make.ensure(tmp_path, "coco", said.append)
    assert said == [f"making the built-in synthetic images in {made}, once: about 10 s"]
    assert make.ensure(tmp_path, "coco", said.append) == made
    assert len(said) == 1
    assert {path.name for path in made.iterdir()} == {
        f"coco-{split}-{rest}"
        for split in ("train", "val")
        for rest in ("000000.tar", "annotations.json", "manifest.json")
    }
    with pytest.raises(UserError, match="nearest: coco"):
        make.ensure(tmp_path, "cocoa")
