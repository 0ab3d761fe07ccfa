"""Two detectors on the same images: the difference of their average precisions, with a paired bootstrap interval."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from nlnet.data.annotations.coco_check import check_annotation, keypoint_counts
from nlnet.errors import UserError
from nlnet.evaluation.coco import average_precisions
from nlnet.evaluation.compare import Difference, difference, drawings

Results = Sequence[Mapping[str, Any]]
_PARTS = {"mask": "segmentation", "keypoint": "keypoints"}
_NAMES = ("AP", "AP50", "AP75")


def compare_results(
    ground_truth: Mapping[str, Any],
    a: Results,
    b: Results,
    *,
    samples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    sigmas: Sequence[float] | None = None,
) -> list[Difference]:
    """AP, AP50 and AP75 of boxes, and of masks and keypoints where both have them, and b - a with its interval.

    The images are drawn with replacement, the same for both; detections keep what they match in their image, and
    precision and recall are computed anew over all that was drawn.

    Args:
        ground_truth: a COCO annotation file.
        a, b: detections in COCO's result format.
        samples: how many times the images are drawn.
        confidence: the fraction of the resampled differences inside the interval.
        seed: of the drawing.
        sigmas: of every keypoint; pycocotools' 17 of people if None.

    Raises UserError for results that are not of these images and categories.
    """
    for name, results in (("A", a), ("B", b)):
        _check(ground_truth, results, name)
    parts = ["box", *(part for part, key in _PARTS.items() if all(row.get(key) for row in (*a, *b)) and (a or b))]
    rows = []
    for part in parts:
        matches = [matched(ground_truth, results, part, sigmas) for results in (a, b)]
        everything = np.ones(len(ground_truth["images"]), np.int64)
        own = [precision_of(found, everything) for found in matches]
        drawn = [
            precision_of(matches[1], counts) - precision_of(matches[0], counts)
            for counts_SI in drawings(len(everything), samples, seed)
            for counts in counts_SI
        ]
        for k, name in enumerate(_NAMES):
            values = {"a": float(own[0][k]), "b": float(own[1][k])}
            rows.append(difference(f"{part}_{name}", values, np.stack(drawn)[:, k], confidence))
    return rows


class Matches(NamedTuple):
    """What the detections of a category match, at T overlaps, by score from high to low."""

    images_D: np.ndarray
    """The image of each, as an index."""
    right_TD: np.ndarray
    wrong_TD: np.ndarray
    """Neither where it does not count: it matches a crowd, say."""
    objects_I: np.ndarray
    """How many objects each image has."""


def matched(
    ground_truth: Mapping[str, Any], results: Results, part: str, sigmas: Sequence[float] | None = None
) -> list[Matches]:
    """Of every category, as pycocotools matches the detections with the objects of their image."""
    found: list[Matches] = []
    average_precisions(ground_truth, results, part, sigmas=sigmas, matched=lambda made: found.extend(_matches(made)))
    return found


def _matches(evaluation: COCOeval) -> list[Matches]:
    parameters = evaluation.params
    images, areas, most = len(parameters.imgIds), len(parameters.areaRng), parameters.maxDets[-1]
    found = []
    for category in range(len(parameters.catIds)):
        first = category * areas * images  # the first of the areas is all sizes
        of_images = evaluation.evalImgs[first : first + images]
        there = [(k, one) for k, one in enumerate(of_images) if one is not None]
        objects_I = np.zeros(images, np.int64)
        for k, one in there:
            objects_I[k] = (~np.asarray(one["gtIgnore"], bool)).sum()
        scores = np.concatenate([one["dtScores"][:most] for _, one in there] or [np.zeros(0)])
        order = np.argsort(-scores, kind="stable")
        rows = np.concatenate([np.full(len(one["dtScores"][:most]), k) for k, one in there] or [np.zeros(0)])
        none = np.zeros((len(parameters.iouThrs), 0), bool)
        hit_TD = np.concatenate([one["dtMatches"][:, :most] > 0 for _, one in there] or [none], 1)[:, order]
        out_TD = np.concatenate([one["dtIgnore"][:, :most] > 0 for _, one in there] or [none], 1)[:, order]
        found.append(Matches(rows[order].astype(np.int64), hit_TD & ~out_TD, ~hit_TD & ~out_TD, objects_I))
    return found


def precision_of(categories: Sequence[Matches], counts_I: np.ndarray) -> np.ndarray:
    """(AP, AP50, AP75) where image i counts counts_I[i] times; nan where no object was drawn.

    AP is the mean over categories with objects, over ten overlaps from 0.5 to 0.95, and over 101 recalls r of the
    highest precision at a recall of r or more, as pycocotools defines it.
    """
    values = [_precisions(one, counts_I) for one in categories]
    values_KT = np.array([value for value in values if value is not None])
    if not len(values_KT):
        return np.full(3, np.nan)
    return np.array([values_KT.mean(), values_KT[:, 0].mean(), values_KT[:, 5].mean()])


_RECALLS = np.linspace(0, 1, 101)


def _precisions(category: Matches, counts_I: np.ndarray) -> np.ndarray | None:
    """(T,) the average precision of a category at each overlap; None without objects."""
    objects = category.objects_I @ counts_I
    if not objects:
        return None
    weights_D = counts_I[category.images_D]
    right_TD, wrong_TD = ((hits * weights_D).cumsum(1) for hits in (category.right_TD, category.wrong_TD))
    precision_TD = right_TD / (right_TD + wrong_TD + np.spacing(1))
    highest_TD = np.maximum.accumulate(precision_TD[:, ::-1], 1)[:, ::-1]
    result = np.zeros(len(right_TD))
    for t, (right_D, highest_D) in enumerate(zip(right_TD, highest_TD, strict=True)):
        at = np.searchsorted(right_D / objects, _RECALLS, side="left")
        result[t] = highest_D[at[at < len(highest_D)]].sum() / len(_RECALLS)
    return result


def _check(ground_truth: Mapping[str, Any], results: Results, name: str) -> None:
    """Raises UserError unless these are detections in those images, of those categories."""
    images = {row["id"]: row for row in ground_truth["images"]}
    keypoints = keypoint_counts(ground_truth["categories"])
    if not isinstance(results, list) or not all(isinstance(row, dict) for row in results):
        raise UserError(f"{name}: no list of detections in COCO's result format; give what src/eval.py wrote")
    for number, row in enumerate(results):
        image = row.get("image_id")
        # the third number of a detected keypoint is anything
        of_annotation = {key: value for key, value in row.items() if key != "keypoints"} | {"id": number}
        problems = list(
            check_annotation(of_annotation, images.get(image) if isinstance(image, int) else None, keypoints)
        )
        if not isinstance(row.get("score"), int | float) or not np.isfinite(row["score"]):
            raise UserError(f"{name}: detection {number} has no score, {row.get('score')!r}")
        points = row.get("keypoints") or []
        if problems or not _are_points(points, keypoints[row["category_id"]]):
            why = f"{problems[0].cause}: {problems[0].detail}" if problems else "its keypoints are not its category's"
            raise UserError(f"{name}: detection {number}: {why}; compare two evaluations on the same images")


def _are_points(points: Any, count: int) -> bool:
    if not isinstance(points, list) or len(points) not in (0, 3 * count):
        return False
    return all(isinstance(value, int | float) and np.isfinite(value) for value in points)
