"""What in COCO annotations that can be read is hardly meant: boxes in other units, masks elsewhere, objects too thin.

Nobody is stopped by a doubt, unless a whole split has no object that can be used. `prepare` says them, `nlnet-verify`
lists them, and a training says them when it starts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nlnet.data.annotations.coco_check import Problem, limbs
from nlnet.data.annotations.coco_masks import is_empty, usable_segmentation

Box = tuple[float, float, float, float]
_SHOWN = 3


class Plausibility(NamedTuple):
    """Of a split: how many objects it has (crowds not counted), how many of them can be used in training, how many have
    a mask, and how many labeled keypoints; and the doubts."""

    objects: int
    usable: int
    masks: int
    keypoints: int
    doubts: tuple[Problem, ...]

    def lines(self, split: str) -> list[str]:
        """The doubts in words, a line for each kind: how many, and the first."""
        first: dict[str, Problem] = {}
        for doubt in self.doubts:
            first.setdefault(doubt.cause, doubt)
        counts = Counter(doubt.cause for doubt in self.doubts)
        return [f"{split}: {counts[c]:,} x {c}, first {d.where}: {d.detail}" for c, d in first.items()]

    def hopeless(self, split: str) -> str | None:
        """What to say of a split that has objects, and none that training could use."""
        if self.usable or not self.objects:
            return None
        causes = Counter(doubt.cause for doubt in self.doubts).most_common(2)
        named = ", ".join(f"{count:,} {cause}" for cause, count in causes)
        first = f"; {self.doubts[0].where}: {self.doubts[0].detail}" if self.doubts else ""
        return f"none of the {self.objects:,} objects of the split {split} can be used ({named}){first}"


def plausibility(content: Mapping[str, Any]) -> Plausibility:
    """Of an annotation file that `check_content` finds no mistake in."""
    images = {row["id"]: row for row in content["images"]}
    rows = content["annotations"]
    objects = [row for row in rows if not row.get("iscrowd", 0)]
    doubts = [problem for row in content["categories"] for problem in _category(row)]
    doubts += _same_names(content["categories"])
    for row in rows:
        doubts += (Problem(f"annotation {row['id']}", *found) for found in _annotation(row, images[row["image_id"]]))
    doubts += _of_all(objects, images)
    if rows and not objects:
        doubts.append(Problem("all annotations", "crowd", "iscrowd is 1, and training leaves crowds out"))
    return Plausibility(
        objects=len(objects) or len(rows),
        usable=sum(_is_usable(row, images[row["image_id"]]) for row in objects),
        masks=sum(usable_segmentation(row.get("segmentation")) is not None for row in objects),
        keypoints=sum(any(v > 0 for v in (row.get("keypoints") or ())[2::3]) for row in objects),
        doubts=tuple(doubts),
    )


def _is_usable(row: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    x1, y1, x2, y2 = _clipped(row["bbox"], image)
    return x2 - x1 >= 1 and y2 - y1 >= 1


def _clipped(box: Sequence[float], image: Mapping[str, Any]) -> Box:
    x, y, width, height = box
    right, bottom = image["width"], image["height"]
    return max(0, min(x, right)), max(0, min(y, bottom)), min(x + width, right), min(y + height, bottom)


def _annotation(row: Mapping[str, Any], image: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    box = row["bbox"]
    size = f"the {image['width']} x {image['height']} image"
    x1, y1, x2, y2 = _clipped(box, image)
    if max(box) <= 1 < min(image["width"], image["height"]) and min(box) >= 0 < max(box[2:]):
        yield "box in fractions", f"bbox is {box}, fractions of the image; expected pixels"
    elif box[2] > 0 < box[3] and (x2 <= x1 or y2 <= y1):
        yield "box outside", f"bbox is {box}, outside of {size}"
    elif x2 - x1 < 1 or y2 - y1 < 1:
        yield "thin box", f"bbox is {box}, less than a pixel wide or high in {size}; training leaves it out"
    yield from _area(row, box[2] * box[3])
    yield from _mask(row.get("segmentation"), box)
    if points := row.get("keypoints"):
        yield from _keypoints(points, row, box, image)


def _area(row: Mapping[str, Any], of_box: float) -> Iterator[tuple[str, str]]:
    area = row.get("area", of_box)
    if of_box >= 4 and not of_box / 1000 <= area <= 1.5 * of_box + 4:
        yield "area", f"area is {area:g}, that of its box {of_box:g}; it decides what is small and large in evaluation"


def _mask(segmentation: Any, box: Sequence[float]) -> Iterator[tuple[str, str]]:
    usable = usable_segmentation(segmentation)
    if isinstance(segmentation, list) and segmentation and (usable is None or len(usable) < len(segmentation)):
        bad = next(polygon for polygon in segmentation if usable is None or polygon not in usable)
        yield "stray polygon", f"{len(bad)} numbers, expected pairs for at least three corners; it is left out"
    if usable is None:
        return
    if is_empty(usable):
        yield "empty mask", "its segmentation has no pixel"
    elif isinstance(usable, list):
        extent = _extent(usable)
        x, y, width, height = box
        if _overlap(extent, (x, y, x + width, y + height)) < 0.9 and _overlap(extent, (x, y, width, height)) > 0.95:
            yield "box of corners", f"bbox is {box}, the corners of its mask; expected [x, y, width, height]"
        elif not _touch(extent, (x, y, x + width, y + height)):
            yield "mask apart", f"its mask goes from {extent[:2]} to {extent[2:]}, its bbox is {box}"


def _keypoints(
    points: Sequence[float], row: Mapping[str, Any], box: Sequence[float], image: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    shown = [(x, y) for x, y, v in zip(points[0::3], points[1::3], points[2::3], strict=True) if v > 0]
    if "num_keypoints" in row and row["num_keypoints"] != len(shown):
        yield "num_keypoints", f"num_keypoints is {row['num_keypoints']!r}, {len(shown)} are labeled, which counts"
    if not shown:
        return
    x, y, width, height = box
    if max(map(max, shown)) <= 1 < max(width, height) and len(shown) > 1:
        yield "keypoints in fractions", f"none is beyond {max(map(max, shown)):g}; expected pixels"
        return
    out = [(a, b) for a, b in shown if not (-1 <= a <= image["width"] and -1 <= b <= image["height"])]
    if out:
        yield "keypoint outside", f"{out[0]} is outside of the {image['width']} x {image['height']} image"
    elif not any(x - width <= a <= x + 2 * width and y - height <= b <= y + 2 * height for a, b in shown):
        yield "keypoints apart", f"none of them is near its bbox {box}"


def _of_all(objects: Sequence[Mapping[str, Any]], images: Mapping[Any, Mapping[str, Any]]) -> Iterator[Problem]:
    """Doubts that take more than one annotation to see; one problem for each kind."""
    counts = Counter((row["image_id"], row["category_id"], *row["bbox"]) for row in objects)
    if twice := [row for row in objects if counts[row["image_id"], row["category_id"], *row["bbox"]] > 1]:
        where = ", ".join(str(row["id"]) for row in twice[:_SHOWN])
        yield Problem(
            f"annotations {where}", "same object twice", f"{len(twice):,} objects have the box of another one"
        )
    beyond = [row for row in objects if _is_beyond(row["bbox"], images[row["image_id"]])]
    if beyond:
        many = f"{len(beyond):,} of {len(objects):,} boxes reach beyond their images and are cut at the edge"
        corners = all(row["bbox"][2] > row["bbox"][0] and row["bbox"][3] > row["bbox"][1] for row in objects)
        asked = "; every one of them could be [x1, y1, x2, y2], expected is [x, y, width, height]" if corners else ""
        yield Problem(f"annotation {beyond[0]['id']}", "box beyond the edge", many + asked)
    without = [row for row in objects if usable_segmentation(row.get("segmentation")) is None]
    if 0 < len(without) < len(objects):
        many = f"{len(without):,} of {len(objects):,} objects have none; data.masks=true leaves them out"
        yield Problem(f"annotation {without[0]['id']}", "no mask", many)


def _is_beyond(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    """By more than a pixel and a twentieth of its size, but not altogether."""
    x1, y1, x2, y2 = _clipped(box, image)
    lost = box[2] - (x2 - x1), box[3] - (y2 - y1)
    return x2 > x1 and y2 > y1 and any(cut > max(1, side / 20) for cut, side in zip(lost, box[2:], strict=True))


def _category(row: Mapping[str, Any]) -> Iterator[Problem]:
    if row.get("keypoints") and row.get("skeleton") and limbs(row) is None:
        detail = (
            f"its limbs are to be pairs of numbers from 1 to {len(row['keypoints'])}; it is only drawn, and not here"
        )
        yield Problem(f"category {row['id']}", "bad skeleton", detail)


def _same_names(rows: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    counts = Counter(row["name"].strip().casefold() for row in rows)
    for row in rows:
        if counts[row["name"].strip().casefold()] > 1:
            yield Problem(f"category {row['id']}", "same name", f"other categories are called {row['name']!r}, too")


def _extent(polygons: Sequence[Sequence[float]]) -> Box:
    xs, ys = [x for points in polygons for x in points[0::2]], [y for points in polygons for y in points[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes given by their corners."""
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (max(0.0, c[2] - c[0]) * max(0.0, c[3] - c[1]) for c in (a, b))
    union = sum(areas) - both
    return both / union if union > 0 else 0.0


def _touch(a: Box, b: Box) -> bool:
    """Whether two boxes have a point in common, with a pixel between them allowed."""
    return a[0] <= b[2] + 1 and b[0] <= a[2] + 1 and a[1] <= b[3] + 1 and b[1] <= a[3] + 1
