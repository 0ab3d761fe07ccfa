"""What can be wrong with COCO annotations, found before anything is made from them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nlnet import limits
from nlnet.data.annotations.coco_masks import outline, run_lengths

LISTS = ("images", "annotations", "categories")
_SHOWN = 20  # mistakes in one message


class Problem(NamedTuple):
    """A mistake: the record, a short phrase to count by, and what was found."""

    where: str
    cause: str
    detail: str


def check_content(content: Any) -> list[Problem]:
    """Everything that is wrong with the content of an annotation file, in the order of the file."""
    if (other := _other_kind(content)) is not None:
        return [Problem("the file", "no COCO file", other)]
    for name in LISTS:
        rows = content.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return [Problem("the file", "no COCO file", f"it has no list of objects under {name!r}")]
    problems = [problem for name in LISTS for problem in _identities(name, content[name])]
    problems += [problem for row in content["categories"] for problem in _category(row)]
    problems += [problem for row in content["images"] for problem in check_image(row)]
    names = Counter(str(row.get("file_name")) for row in content["images"])
    problems += [Problem(n, "duplicate file", f"{count} images have it") for n, count in names.items() if count > 1]
    images = {_id(row): row for row in content["images"]}
    keypoints = keypoint_counts(content["categories"])
    for row in content["annotations"]:
        problems += check_annotation(row, images.get(_id(row, "image_id")), keypoints)
    return problems


def _other_kind(content: Any) -> str | None:
    """What a file is that holds no objects, in words."""
    if not isinstance(content, dict):
        is_result = isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]
        what = "it is a list of detections" if is_result else f"it holds a {type(content).__name__}"
        return f"{what}, expected an object with {', '.join(LISTS)}"
    rows = content.get("annotations")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    if "segments_info" in first:
        return "it holds panoptic segments; boxes and masks of objects are in instances_*.json"
    if "caption" in first and "bbox" not in first:
        return "it holds captions; boxes and masks of objects are in instances_*.json"
    return None


def check_image(row: Mapping[str, Any]) -> Iterator[Problem]:
    """Mistakes in the record of an image."""
    where = f"image {row.get('id')!r}"
    if not _names_a_file(row.get("file_name")):
        yield Problem(where, "no file name", f"file_name is {row.get('file_name')!r}")
    width, height = row.get("width"), row.get("height")
    if not _whole(width) or not _whole(height) or width < 1 or height < 1:  # type: ignore[operator]
        yield Problem(where, "bad image size", f"width is {width!r:.40}, height is {height!r:.40}")
    elif width * height > limits.PIXELS.most * limits.SCALED:  # type: ignore[operator]
        excess = limits.PIXELS.excess(amount=width * height)  # type: ignore[operator]
        yield Problem(where, "too large", f"width is {width!r:.40}, height is {height!r:.40}; {excess}")


def check_annotation(
    row: Mapping[str, Any], image: Mapping[str, Any] | None, keypoints: Mapping[Any, int]
) -> Iterator[Problem]:
    """Mistakes in an annotation of `image`; `keypoints` says how many each category has.

    Besides what is wrong on its face: a category that is not listed; keypoints of the wrong length.
    """
    where = f"annotation {row.get('id')!r}"
    if image is None:
        yield Problem(where, "no such image", f"image_id is {row.get('image_id')!r}")
    category = _id(row, "category_id")
    if category not in keypoints:
        yield Problem(where, "no such category", f"category_id is {row.get('category_id')!r}")
    if row.get("iscrowd", 0) not in (0, 1):
        yield Problem(where, "bad iscrowd", f"iscrowd is {row['iscrowd']!r}")
    if "area" in row and not (_number(row["area"]) and row["area"] >= 0):
        yield Problem(where, "bad area", f"area is {row['area']!r}")
    yield from (Problem(where, *found) for found in _box(row.get("bbox")))
    if row.get("segmentation"):
        yield from (Problem(where, *found) for found in _segmentation(row["segmentation"], image))
    if row.get("keypoints") is not None and keypoints.get(category):  # of no use where the category names none
        yield from (Problem(where, *found) for found in _keypoints(row["keypoints"], keypoints[category]))


def keypoint_counts(categories: Iterable[Mapping[str, Any]]) -> dict[Any, int]:
    """Category id -> how many keypoints its objects have."""
    return {_id(row): len(row.get("keypoints") or ()) for row in categories}


def describe(problems: Sequence[Problem]) -> list[str]:
    """All of them as the lines of a message: how many of each kind, then one a line."""
    counts = Counter(problem.cause for problem in problems)
    lines = [f"  {p.where}: {p.cause}: {p.detail}" for p in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  ... and {len(problems) - _SHOWN:,} more")
    kinds = ", ".join(f"{count:,} {cause}" for cause, count in counts.most_common())
    return [f"{len(problems):,} mistakes ({kinds})", *lines]


def _identities(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    kind = {"categories": "category"}.get(name, name[:-1])
    counts = Counter(repr(row.get("id")) for row in rows)
    for row in rows:
        if not _whole(row.get("id")):
            yield Problem(f"{kind} {row.get('id')!r}", "bad id", "an id is a whole number")
    for text, count in counts.items():
        if count > 1:
            yield Problem(f"{kind} {text}", f"duplicate {kind} id", f"{count} records have it")


def _category(row: Mapping[str, Any]) -> Iterator[Problem]:
    where, names = f"category {row.get('id')!r}", row.get("keypoints")
    if not isinstance(row.get("name"), str):
        yield Problem(where, "no category name", f"name is {row.get('name')!r}")
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        yield Problem(where, "bad keypoint names", "keypoints is no list of names")
        return


def limbs(row: Mapping[str, Any]) -> list[tuple[int, int]] | None:
    """The skeleton of a category as pairs of indices from 0 into its keypoints; None where it is none.

    COCO counts from 1; one with a 0 in it is counted from 0.
    """
    pairs, count = row.get("skeleton") or [], len(row.get("keypoints") or ())
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return None
    ends = [end for pair in pairs for end in pair]
    if not all(map(_whole, ends)):
        return None
    first = 0 if 0 in ends else 1
    return [(a - first, b - first) for a, b in pairs] if all(first <= k < count + first for k in ends) else None


def _box(box: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_number, box)):
        yield "bad box", f"bbox is {box!r:.80}, expected [x, y, width, height]"
    elif box[2] < 0 or box[3] < 0:
        yield "negative size", f"bbox is {box}: width {box[2]:g}, height {box[3]:g}"


def _segmentation(value: Any, image: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        yield from _runs(value, image)
        return
    if not isinstance(value, list):
        yield "bad segmentation", f"{value!r:.80} is neither polygons nor run lengths"
        return
    for polygon in value:
        if not isinstance(polygon, list) or not all(map(_number, polygon)):
            yield "bad polygon", f"{polygon!r:.80} is no list of numbers"
        elif len(polygon) < 6 or len(polygon) % 2:
            continue  # no mask, whatever it is; see `usable_segmentation`
        elif image is not None and max(map(abs, polygon)) > _far(image):
            yield "bad polygon", f"a corner at {max(polygon, key=abs):g}, far outside of the image"
        elif image is not None and len(polygon) * _far(image) > limits.OUTLINE.most < (long := outline([polygon])):
            yield "bad polygon", str(limits.OUTLINE.excess(amount=int(long)))


def _far(image: Mapping[str, Any]) -> float:
    """Drawing a polygon takes time and memory by its length, so it may not be much longer than the image."""
    width, height = image.get("width"), image.get("height")
    return 2.0 * max(width, height) if isinstance(width, int) and isinstance(height, int) else 0.0


def _runs(rle: Mapping[str, Any], image: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or not isinstance(counts, str | list):
        yield "bad run lengths", "expected size, [height, width], and counts, a text or a list"
    elif image is not None and size != [image.get("height"), image.get("width")]:
        yield "bad run lengths", f"size is {size!r:.80}, the image has {image.get('height')} x {image.get('width')}"
    elif image is not None:
        try:
            run_lengths(counts, *size)
        except ValueError as error:
            yield "bad run lengths", str(error)


def _keypoints(values: Any, count: int) -> Iterator[tuple[str, str]]:
    if not isinstance(values, list) or not all(map(_number, values)):
        yield "bad keypoints", f"{values!r:.80} is no list of numbers"
    elif len(values) != 3 * count:
        yield "bad keypoints", f"{len(values)} numbers, expected {3 * count} for {count} keypoints of its category"
    elif not set(values[2::3]) <= {0, 1, 2}:
        yield "bad keypoints", f"visibilities {sorted(set(values[2::3]))}, expected 0, 1 or 2"


def _names_a_file(name: Any) -> bool:
    """Whether the last part of a path, with either slash, can be a file's name."""
    return (
        isinstance(name, str) and "\0" not in name and name.replace("\\", "/").rpartition("/")[2] not in ("", ".", "..")
    )


def _id(row: Mapping[str, Any], name: str = "id") -> Any:
    """An id as a key of a dictionary, whatever stands there."""
    value = row.get(name)
    return value if _whole(value) else repr(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 1e9
