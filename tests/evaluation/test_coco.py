"""Average precision by the COCO protocol, against pycocotools in a process of its own."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from helpers.coco_process import judge
from nlnet.evaluation.coco import KINDS, METRICS, average_precisions, encode_mask, to_results

SIDE, IMAGES, SIGMAS = 200, 12, (0.1, 0.05, 0.2)
IDS = (3, 7)  # of the two categories, for labels 1 and 2


def rectangle(box):
    mask = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def records(rng):
    """Annotations of images 1 to 12, the last without any: small to large objects, crowds, unlabeled keypoints."""
    rows = []
    for image in range(1, IMAGES):
        for _ in range(rng.integers(1, 5)):
            x, y = rng.integers(0, 90, 2).tolist()
            width, height = rng.integers(8, 110, 2).tolist()
            crowd, labeled = bool(rng.random() < 0.15), bool(rng.random() < 0.8)
            points = [
                value for k in range(3) for value in (x + width * k // 3, y + height * k // 3, 2 if labeled else 0)
            ]
            polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
            row = {
                "id": len(rows) + 1,
                "image_id": image,
                "category_id": int(rng.choice(IDS)),
                "bbox": [x, y, width, height],
                "area": width * height * 0.8,
                "iscrowd": int(crowd),
                "segmentation": encode_mask(rectangle([x, y, x + width, y + height])) if crowd else [polygon],
                "keypoints": points,
                "num_keypoints": 3 * labeled,
            }
            rows.append(row)
    return rows


def guess(row, rng):
    """A detection near an annotation: x1, y1, x2, y2, label, and keypoints (3, 3)."""
    x, y, width, height = row["bbox"]
    shift = rng.integers(-6, 7, 4)
    box = np.clip([x + shift[0], y + shift[1], x + width + shift[2], y + height + shift[3]], 0, SIDE)
    box[2:] = np.maximum(box[2:], box[:2] + 2)
    points = np.array(row["keypoints"], float).reshape(3, 3) + rng.normal(0, 3, (3, 3))
    label = IDS.index(row["category_id"]) + 1 if rng.random() < 0.85 else int(rng.integers(1, 3))
    return box.tolist(), label, points


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Truth and results, and the folder with their files."""
    rng = np.random.default_rng(0)
    truth = {
        "images": [{"id": k, "width": SIDE, "height": SIDE} for k in range(1, IMAGES + 1)],
        "categories": [{"id": k, "name": str(k)} for k in IDS],
        "annotations": records(rng),
    }
    results = []
    for image in range(1, IMAGES + 1):
        rows = [row for row in truth["annotations"] if row["image_id"] == image] or truth["annotations"][:1]
        found = [guess(row, rng) for row in rows + rows[:1]]
        detection = {
            "boxes": torch.tensor([box for box, _, _ in found], dtype=torch.float32),
            "labels": torch.tensor([label for _, label, _ in found]),
            "scores": torch.tensor(rng.choice([0.3, 0.6, 0.9], len(found)), dtype=torch.float32),
            "masks": torch.stack([rectangle(box) for box, _, _ in found])[:, None] * 0.9,
            "keypoints": torch.tensor(np.stack([points for _, _, points in found]), dtype=torch.float32),
        }
        results += to_results(detection, image, IDS)
    folder = tmp_path_factory.mktemp("coco")
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "predictions.json").write_text(json.dumps(results))
    return truth, results, folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_are_those_of_a_separate_pycocotools_process(world, kind):
    truth, results, folder = world
    before = json.dumps([truth, results])
    ours = average_precisions(truth, results, kind, sigmas=SIGMAS)
    assert json.dumps([truth, results]) == before
    sigmas = SIGMAS if kind == "keypoint" else ()
    theirs = judge(folder / "truth.json", folder / "predictions.json", KINDS[kind], sigmas)
    assert list(ours) == list(METRICS[kind])
    assert list(ours.values()) == pytest.approx(theirs[: len(ours)], abs=1e-12)
    assert 0.05 < ours["AP"] < 0.95


def test_crowds_areas_and_sigmas_make_a_difference(world):
    truth, results, _ = world
    rows = truth["annotations"]
    plain = average_precisions(truth, results, "box")
    solid = average_precisions(truth | {"annotations": [row | {"iscrowd": 0} for row in rows]}, results, "box")
    larger = average_precisions(
        truth | {"annotations": [row | {"area": row["area"] * 4} for row in rows]}, results, "box"
    )
    assert sum(row["iscrowd"] for row in rows) >= 2
    assert solid["AP"] != plain["AP"] == larger["AP"]
    assert larger["AP_large"] != plain["AP_large"]
    wide, narrow = (average_precisions(truth, results, "keypoint", sigmas=[s] * 3)["AP"] for s in (0.5, 0.01))
    assert wide > narrow


def perfect(truth):
    kept = [row for row in truth["annotations"] if not row["iscrowd"]]
    results = [{name: row[name] for name in ("image_id", "category_id", "bbox", "keypoints")} for row in kept]
    for result in results:
        x, y, width, height = result["bbox"]
        result |= {"score": 0.5, "segmentation": encode_mask(rectangle([x, y, x + width, y + height]))}
    return results


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_itself_is_perfect_and_silence_finds_nothing(world, kind):
    truth, _, _ = world
    found = average_precisions(truth, perfect(truth), kind, sigmas=SIGMAS)
    assert found["AP"] == pytest.approx(1)
    assert average_precisions(truth, [], kind, sigmas=SIGMAS)["AP"] == 0


def test_only_the_images_that_were_looked_at_count(world):
    truth, _, _ = world
    some = [result for result in perfect(truth) if result["image_id"] <= 5]
    assert average_precisions(truth, some, "box", image_ids=range(1, 6))["AP"] == pytest.approx(1)
    assert average_precisions(truth, some, "box")["AP"] < 0.9


def test_an_area_that_nothing_has_is_minus_one(world):
    truth, results, _ = world
    small = truth | {"annotations": [row | {"area": 10} for row in truth["annotations"]]}
    figures = average_precisions(small, results, "box")
    assert figures["AP_medium"] == figures["AP_large"] == -1


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn:DeprecationWarning")  # pycocotools with numpy 2
def test_results_are_in_cocos_format():
    mask = torch.zeros(2, 1, 6, 4)
    mask[0, 0, 1:3, 1:] = 0.5
    mask[1, 0] = 0.49
    detection = {
        "boxes": torch.tensor([[1.0, 2.5, 4.0, 6.0], [0.0, 0.0, 1.0, 1.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.75, 0.5]),
        "masks": mask,
        "keypoints": torch.tensor([[[1.0, 2.0, 1.0]], [[3.0, 4.0, 1.0]]]),
    }
    first, second = json.loads(json.dumps(to_results(detection, 42, IDS)))
    assert {name: first[name] for name in ("image_id", "category_id", "bbox", "score")} == {
        "image_id": 42,
        "category_id": 7,
        "bbox": [1.0, 2.5, 3.0, 3.5],
        "score": 0.75,
    }
    assert (second["category_id"], second["keypoints"]) == (3, [3.0, 4.0, 1.0])
    assert np.array_equal(rle.decode(first["segmentation"]), mask[0, 0].numpy() >= 0.5)
    assert rle.area(second["segmentation"]) == 0
    assert detection["boxes"][0].tolist() == [1.0, 2.5, 4.0, 6.0]


def test_another_kind_is_refused(world):
    with pytest.raises(ValueError, match="kind='segm'; known: box, mask, keypoint"):
        average_precisions(world[0], [], "segm")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [0, -7, 2**40])
def test_an_object_counts_whatever_its_id(world, kind, first):
    truth, results, _ = world
    moved = truth | {"annotations": [row | {"id": first + k} for k, row in enumerate(truth["annotations"])]}
    assert average_precisions(moved, results, kind, sigmas=SIGMAS) == average_precisions(
        truth, results, kind, sigmas=SIGMAS
    )


def test_one_object_with_id_0_is_found_where_pycocotools_itself_does_not(tmp_path):
    row = {"id": 0, "image_id": 0, "category_id": 0, "bbox": [12, 14, 38, 24], "area": 912, "iscrowd": 0}
    truth = {"images": [{"id": 0}], "categories": [{"id": 0, "name": "thing"}], "annotations": [row]}
    results = [{"image_id": 0, "category_id": 0, "bbox": row["bbox"], "score": 0.5}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(results))
    assert judge(tmp_path / "truth.json", tmp_path / "found.json", "bbox", ())[0] == 0
    assert average_precisions(truth, results, "box")["AP"] == pytest.approx(1)
    truth["annotations"] = [row | {"id": 1}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert judge(tmp_path / "truth.json", tmp_path / "found.json", "bbox", ())[0] == pytest.approx(1)
