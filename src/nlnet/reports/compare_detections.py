"""Two evaluations of detectors, by what they wrote and what was to be found: for `nlnet-compare`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from nlnet import limits
from nlnet.config.saved import saved_settings
from nlnet.data.annotations.coco_check import check_content, describe
from nlnet.errors import UserError
from nlnet.evaluation.coco_compare import compare_results
from nlnet.evaluation.compare import Difference
from nlnet.evaluation.predictions import DETECTIONS
from nlnet.reading import read_json
from nlnet.runs.file_names import CONFIG
from nlnet.runs.run_dir import read_record


class Truth(NamedTuple):
    """COCO annotations, and the sigmas of their keypoints where these are not those of people."""

    content: Mapping[str, Any]
    sigmas: Sequence[float] | None = None


def compare_detections(a: Path, b: Path, truth: Path | None, **options: Any) -> tuple[str, list[Difference]]:
    """How many images there are, and the differences of the average precisions of B and A.

    Args:
        a, b: the folders of two evaluations, or the files of detections in them.
        truth: COCO annotations of the images; None for the data that the evaluations' settings name.
        options: of `compare_results`.

    Raises UserError where the detections are not of the same images, or not of all of them.
    """
    known = _given(truth) if truth else _of_run(_folder(a))
    if not truth and _of_run(_folder(b)).content != known.content:
        raise UserError("A and B are not of the same images and objects; evaluate both on the same data")
    count = len(known.content["images"])
    for path in (a, b):
        seen = (read_record(_folder(path)).get("metrics") or {}).get("val/images")
        if seen is not None and seen != count:
            raise UserError(f"{path}: its evaluation saw {seen:.0f} of {count} images; evaluate all of them")
    results = [_detections(path) for path in (a, b)]
    return f"{count} images", compare_results(known.content, *results, sigmas=known.sigmas, **options)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _detections(path: Path) -> Any:
    file = path / DETECTIONS if path.is_dir() else path
    try:
        return read_json(file, limits.ANNOTATIONS, limits.ANNOTATION_MEMORY)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error}") from None


def _given(file: Path) -> Truth:
    try:
        content = read_json(file, limits.ANNOTATIONS, limits.ANNOTATION_MEMORY)
    except OSError as error:
        raise UserError(f"--truth {file}: cannot be read: {error}") from None
    if problems := check_content(content):
        raise UserError(f"--truth {file}: {describe(problems)[0]}", *describe(problems)[1:])
    return Truth({**content, "annotations": [_filled_in(row) for row in content["annotations"]]})


def _filled_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """An annotation with what the evaluation needs and a file may leave out; of the area only the box is known then."""
    points = {"num_keypoints": sum(v > 0 for v in row["keypoints"][2::3])} if row.get("keypoints") else {}
    return {"iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], **points, **row}


def _of_run(folder: Path) -> Truth:
    """What the settings of an evaluation name."""
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(f"{folder}: no {CONFIG} of an evaluation in it; give the annotations with --truth FILE")
    try:
        return _from_settings(file)
    except UserError as error:
        raise UserError(f"{error}; or give the annotations with --truth FILE") from error


def _from_settings(file: Path) -> Truth:
    from nlnet.runs.build import make_data  # with Lightning, which takes seconds

    data = make_data(OmegaConf.create(saved_settings(file, trust=False, allow=(), typed={})))
    try:
        if not hasattr(data, "ground_truth"):
            raise UserError(f"{file}: its data is no detection's; give the folder of an evaluation of a detector")
        return Truth(data.ground_truth(), list(data.sigmas) or None)
    finally:
        data.close()
