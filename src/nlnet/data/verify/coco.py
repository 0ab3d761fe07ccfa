"""What is wrong with COCO's records in shards of images."""

from typing import Any

import numpy as np

from nlnet.data.annotations.coco import shown_classes
from nlnet.data.annotations.coco_check import Problem, check_annotation, check_content, check_image, keypoint_counts
from nlnet.data.annotations.coco_plausible import plausibility
from nlnet.data.media.images import decode_image
from nlnet.data.shards.coco import read_truth
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.errors import UserError
from nlnet.reading import parse_json

GroundTruth = dict[Any, dict[str, Any]]
"""Image id -> `{"image": ..., "annotations": [...]}`, as a split's annotation file has them."""


def check_ground_truth(manifest: Manifest, root: str) -> tuple[GroundTruth | None, list[Problem]]:
    """The annotation file beside the manifest, and what is wrong with it; None where it cannot be used."""
    try:
        content = read_truth(manifest, root)
    except UserError as error:
        return None, [Problem(manifest.split, "annotations", str(error))]
    if mistakes := check_content(content):
        return None, [p._replace(where=f"{manifest.split}, {p.where}") for p in mistakes]
    found = plausibility(content)
    problems = [p._replace(where=f"{manifest.split}, {p.where}") for p in found.doubts]
    if hopeless := found.hopeless(manifest.split):
        problems.append(Problem(manifest.split, "annotations", hopeless))
    ground_truth: GroundTruth = {image["id"]: {"image": image, "annotations": []} for image in content["images"]}
    for row in content["annotations"]:
        ground_truth[row["image_id"]]["annotations"].append(row)
    if len(ground_truth) != len(manifest.samples):
        detail = f"it has {len(ground_truth)} images, the manifest {len(manifest.samples)}"
        problems.append(Problem(manifest.split, "annotations", detail))
    return ground_truth, problems


def check_records(manifest: Manifest, sample: Sample, text: bytes, ground_truth: GroundTruth | None) -> list[Problem]:
    """What is wrong with the records in a sample's JSON, by themselves and beside the manifest and the ground truth."""
    where = f"{manifest.split}/{sample.key}"
    try:
        content = parse_json(text, "")
        image, rows = content["image"], content["annotations"]
        problems = list(check_image(image))
        counts = keypoint_counts(manifest.details["categories"])
        for row in rows:
            problems += check_annotation(row, image, counts)
        if problems:
            return [p._replace(where=f"{where}, {p.where}") for p in problems]
        class_of = {row["id"]: k for k, row in enumerate(manifest.details["categories"])}
        listed = (image["width"], image["height"], shown_classes(rows, class_of))
        same = ground_truth is None or ground_truth.get(image["id"]) == {"image": image, "annotations": rows}
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [Problem(where, "malformed", f"its .json holds no COCO records ({error})")]
    if listed != (sample.width, sample.height, sample.labels):
        return [Problem(where, "mismatch", "size or classes in its .json are not the manifest's")]
    return [] if same else [Problem(where, "mismatch", "its .json is not what the split's annotation file says")]


def pixels(sample: Sample, data: bytes) -> np.ndarray:
    """The image (H, W, 3) uint8. Raises ImageError."""
    return np.asarray(decode_image(data, sample.width, sample.height))
