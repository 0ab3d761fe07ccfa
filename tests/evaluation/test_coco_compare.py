"""The bootstrap of detections: against pycocotools on images that are really there several times."""

import json

import numpy as np
import pytest
import torch

from nlnet.cli.compare import main
from nlnet.errors import UserError
from nlnet.evaluation.coco import average_precisions, encode_mask
from nlnet.evaluation.coco_compare import compare_results, matched, precision_of
from nlnet.evaluation.predictions import DETECTIONS

IMAGES, SIDE = 12, 200


def outline(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def made(seed=0):
    """Images with objects of three categories, a few of them crowds; the last image, and category 3, are empty."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(IMAGES - 1):
        for _ in range(int(rng.integers(0, 6))):
            box = [float(v) for v in (*rng.integers(0, 120, 2), *rng.integers(8, 70, 2))]
            crowd = int(rng.random() < 0.15)
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": int(rng.integers(1, 3)), "bbox": box,
                         "area": box[2] * box[3], "iscrowd": crowd, "segmentation": outline(*box)})  # fmt: skip
    images = [{"id": k, "file_name": f"{k}.png", "width": SIDE, "height": SIDE} for k in range(IMAGES)]
    return {"images": images, "annotations": rows, "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)]}


def detected(truth, seed, spread):
    """Guesses near the objects, and some that are nowhere; every score is another."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in truth["annotations"]:
        if rng.random() < 0.8:
            box = [abs(float(v)) + 1 for v in np.array(row["bbox"]) + rng.normal(0, spread, 4)]
            rows.append(row | {"bbox": box})
    for image in range(IMAGES):
        for _ in range(int(rng.integers(0, 3))):
            rows.append({"image_id": image, "category_id": int(rng.integers(1, 4)), "bbox": [30.0, 30.0, 40.0, 50.0]})
    scores = rng.permutation(len(rows)) / len(rows)
    return [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"],
         "segmentation": mask(row["bbox"]), "score": float(score)}
        for row, score in zip(rows, scores, strict=True)
    ]  # fmt: skip


def mask(box):
    x, y, w, h = (int(v) for v in box)
    picture = torch.zeros(SIDE, SIDE)
    picture[y : y + h, x : x + w] = 1
    return encode_mask(picture)


def repeated(truth, results, counts):
    """The same images as often as counted, each copy with an id of its own."""
    images, rows, found = [], [], []
    for image, count in enumerate(counts):
        for _ in range(count):
            new = len(images)
            images.append(truth["images"][image] | {"id": new})
            rows += [r | {"image_id": new} for r in truth["annotations"] if r["image_id"] == image]
            found += [r | {"image_id": new} for r in results if r["image_id"] == image]
    rows = [row | {"id": k} for k, row in enumerate(rows, start=1)]
    return truth | {"images": images, "annotations": rows}, found


@pytest.mark.parametrize("part", ["box", "mask"])
def test_a_resampling_is_what_pycocotools_makes_of_repeated_images(part):
    truth = made()
    results = detected(truth, 1, 3)
    matches = matched(truth, results, part)
    rng = np.random.default_rng(2)
    for counts in [np.ones(IMAGES, int), *rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 12)]:
        again, found = repeated(truth, results, counts)
        expected = average_precisions(again, found, part)
        assert precision_of(matches, counts) == pytest.approx(
            [expected[name] for name in ("AP", "AP50", "AP75")], abs=1e-9
        )
    assert 0.1 < precision_of(matches, np.ones(IMAGES, int))[0] < 0.9


def test_images_without_objects_have_no_precision():
    truth = made()
    matches = matched(truth, detected(truth, 1, 3), "box")
    assert np.isnan(precision_of(matches, np.eye(IMAGES, dtype=int)[-1])).all()
    assert (precision_of(matched(truth, [], "box"), np.ones(IMAGES, int)) == 0).all()


def test_the_better_detector_is_told_and_a_detector_is_as_good_as_itself():
    truth = made()
    near, far = detected(truth, 1, 1), detected(truth, 1, 8)
    rows = {row.name: row for row in compare_results(truth, far, near, samples=100)}
    assert list(rows) == [f"{part}_{name}" for part in ("box", "mask") for name in ("AP", "AP50", "AP75")]
    assert rows["box_AP"].low > 0
    assert rows["box_AP"].low < rows["box_AP"].difference < rows["box_AP"].high
    assert rows["box_AP"].both is None
    assert all(
        (row.difference, row.low, row.high) == (0, 0, 0) for row in compare_results(truth, near, near, samples=9)
    )
    assert compare_results(truth, far, near, samples=9) != compare_results(truth, far, near, samples=9, seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "A: detection 0: no such image: image_id is 99; compare two evaluations on the same images"),
        ({"category_id": 7}, "A: detection 0: no such category"),
        ({"category_id": [7]}, "A: detection 0: no such category"),
        ({"image_id": {}}, "A: detection 0: no such image"),
        ({"score": None}, "A: detection 0 has no score, None"),
        ({"score": float("nan")}, "A: detection 0 has no score, nan"),
        ({"bbox": [1, 2, 3]}, "A: detection 0: bad box"),
        ({"segmentation": {"size": [SIDE, SIDE], "counts": "zzz"}}, "A: detection 0: bad run lengths"),
        ({"keypoints": [1, 2, 3]}, "A: detection 0: its keypoints are not its category's"),
    ],
)
def test_results_that_are_of_something_else_are_refused_in_words(change, message):
    truth = made()
    results = detected(truth, 1, 3)
    with pytest.raises(UserError) as error:
        compare_results(truth, [results[0] | change, *results[1:]], results, samples=1)
    assert str(error.value).startswith(message)
    with pytest.raises(UserError, match="B: no list of detections"):
        compare_results(truth, results, {"video": []}, samples=1)


def test_the_command_with_annotations_given(tmp_path, command):
    truth = made()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    for name, spread in (("a", 8), ("b", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / DETECTIONS).write_text(json.dumps(detected(truth, 1, spread)))
    given = ("--truth", str(tmp_path / "truth.json"))
    code, out, _ = command(main, str(tmp_path / "a"), str(tmp_path / "b" / DETECTIONS), *given, "--samples", "40")
    assert code == 0
    assert "12 images, 40 resamplings" in out
    assert next(line for line in out.splitlines() if line.startswith("box_AP ")).endswith("B is better")
    code, out, _ = command(main, str(tmp_path / "a"), str(tmp_path / "b"), *given, "--samples", "5", "--json")
    assert json.loads(out)["images"] == 12
    code, _, err = command(main, str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 1
    assert "no config.yaml of an evaluation in it; give the annotations with --truth FILE" in err
    (tmp_path / "b" / "summary.json").write_text(json.dumps({"metrics": {"val/images": 5}}))
    code, _, err = command(main, str(tmp_path / "a"), str(tmp_path / "b"), *given)
    assert code == 1
    assert "its evaluation saw 5 of 12 images; evaluate all of them" in err
    code, _, err = command(main, str(tmp_path / "a"), str(tmp_path / "truth.parquet"), *given)
    assert code == 1
    assert "not both detections" in err
