"""Average precision by the COCO protocol, computed by pycocotools over all images at once."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from nlnet.data.annotations.coco_masks import usable_segmentation

KINDS = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
"""Our word for what is compared, and pycocotools'."""

_AREAS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
METRICS = {"box": _AREAS, "mask": _AREAS, "keypoint": ("AP", "AP50", "AP75", "AP_medium", "AP_large")}
"""What is reported of each kind: the first numbers of pycocotools' summary, in its order."""


def to_results(
    detection: Mapping[str, Tensor], image_id: int, category_ids: Sequence[int], threshold: float = 0.5
) -> list[dict[str, Any]]:
    """The detections in one image, in COCO's result format.

    Args:
        detection: in pixels of the image as annotated: `boxes` (n, 4) as x1, y1, x2, y2, `scores` (n,), `labels` (n,)
            from 1, and where there are any `masks` (n, 1, H, W) as probabilities and `keypoints` (n, K, 3).
        image_id: of the ground truth.
        category_ids: the category of label k + 1.
        threshold: probability from which a pixel belongs to the mask.
    """
    found = {name: value.detach().cpu() for name, value in detection.items()}
    corners = found["boxes"].double()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    results: list[dict[str, Any]] = [
        {"image_id": int(image_id), "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, score, label in zip(
            boxes.tolist(), found["scores"].double().tolist(), found["labels"].tolist(), strict=True
        )
    ]
    if "masks" in found:
        for result, mask in zip(results, found["masks"], strict=True):
            result["segmentation"] = encode_mask(mask[0] >= threshold)
    if "keypoints" in found:
        for result, points in zip(results, found["keypoints"].double(), strict=True):
            result["keypoints"] = points.flatten().tolist()
    return results


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """A (H, W) mask of 0 and 1 as compressed run lengths that JSON can hold."""
    encoded = rle.encode(np.asfortranarray(mask.to(torch.uint8).numpy()))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def average_precisions(
    ground_truth: Mapping[str, Any],
    results: Iterable[Mapping[str, Any]],
    kind: str,
    *,
    image_ids: Iterable[int] | None = None,
    sigmas: Sequence[float] | None = None,
    matched: Callable[[COCOeval], object] | None = None,
) -> dict[str, float]:
    """The metrics in `METRICS[kind]`; -1 where the ground truth has nothing to find, as pycocotools says it.

    An object without a mask is neither found nor missed in a comparison of masks: its box is a crowd's there.
    Masks are judged without the boxes of the results, so that an instance is small or large by the area of its mask,
    as on COCO's server; keypoints with them.

    Args:
        ground_truth: a COCO annotation file: `images`, `annotations`, `categories`.
        results: in COCO's result format.
        kind: "box", "mask" or "keypoint".
        image_ids: the images to count; all of the ground truth if None.
        sigmas: of every keypoint, for the object keypoint similarity; pycocotools' 17 of people if None.
        matched: called with pycocotools' evaluation once it knows which detection matches what.

    Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; known: {', '.join(KINDS)}")
    with redirect_stdout(io.StringIO()):  # it reports in print statements
        truth = _index(_with_masks(ground_truth) if kind == "mask" else ground_truth)
        evaluation = COCOeval(truth, _load(truth, results, kind), KINDS[kind])
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        if kind == "keypoint" and sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
        evaluation.evaluate()
        if matched is not None:
            matched(evaluation)
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(METRICS[kind], evaluation.stats, strict=False)}


def _index(ground_truth: Mapping[str, Any]) -> COCO:
    coco = COCO()
    # Copies, for the evaluation writes into them. Numbered anew from 1: it keeps the id of what a detection matched,
    # and takes 0 for "nothing".
    annotations = [{**row, "id": number} for number, row in enumerate(ground_truth["annotations"], start=1)]
    coco.dataset = {
        "images": list(ground_truth["images"]),
        "categories": list(ground_truth["categories"]),
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _with_masks(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for row in ground_truth["annotations"]:
        mask = usable_segmentation(row.get("segmentation"))
        x, y, width, height = row["bbox"]
        box = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        rows.append({**row, "segmentation": mask} if mask else {**row, "segmentation": box, "iscrowd": 1})
    return {**ground_truth, "annotations": rows}


def _load(truth: COCO, results: Iterable[Mapping[str, Any]], kind: str) -> COCO:
    dropped = "bbox" if kind == "mask" else "segmentation"
    entries = [{name: value for name, value in result.items() if name != dropped} for result in results]
    if entries:
        return truth.loadRes(entries)
    return _index(truth.dataset | {"annotations": []})
