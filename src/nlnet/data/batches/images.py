"""Batches of images with their objects: read, mirrored, resized, the objects with them."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nlnet import limits
from nlnet.data.annotations.coco_categories import Categories
from nlnet.data.annotations.coco_check import check_annotation, check_image, keypoint_counts
from nlnet.data.annotations.coco_masks import given_mask, outline, usable_segmentation
from nlnet.data.batches.base import Batch, Listing, RankSlice, ShardBatches
from nlnet.data.batches.order import Order
from nlnet.data.media.images import ImageError, decode_image
from nlnet.data.media.suffixes import IMAGE_MEMBERS, READ_ALWAYS
from nlnet.data.shards.manifest import Sample, Samples
from nlnet.data.shards.reader import SampleError
from nlnet.data.shards.source import DEFAULTS, ReadSettings
from nlnet.errors import UserError
from nlnet.reading import parse_json


@dataclass(frozen=True)
class ImageSettings:
    """How images are handed out.

    Args:
        short_sides: the short side is resized to one of these, at random in training; to the last in evaluation.
        max_size: what the long side may have at most.
        flip: mirror half of the training images.
        train: crowds, and what is left of objects outside of the image, are left out.
        masks: draw the objects' masks.
        keypoints: hand out keypoints.
        mirrored: where each keypoint is found after mirroring.
        formats: of images that are read.
    """

    short_sides: tuple[int, ...]
    max_size: int
    flip: bool
    train: bool
    masks: bool
    keypoints: bool
    mirrored: tuple[int, ...] = ()
    formats: tuple[str, ...] = READ_ALWAYS


class Frame(NamedTuple):
    """From the pixels of a stored image to those of the image that is handed out: mirrored, then resized."""

    width: int
    height: int
    new_width: int
    new_height: int
    flip: bool

    @property
    def scale_xy(self) -> tuple[float, float]:
        return self.new_width / self.width, self.new_height / self.height

    def image(self, image: Image.Image) -> Tensor:
        """(3, H, W) uint8."""
        resized = image.resize((self.new_width, self.new_height), Image.Resampling.BILINEAR)
        pixels_HWC = np.array(resized)
        if self.flip:
            pixels_HWC = pixels_HWC[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)))

    def boxes(self, boxes_xywh: np.ndarray) -> np.ndarray:
        """(n, 4): left, top, right, bottom; what lies outside of the image is cut off."""
        low = boxes_xywh[:, :2]
        corners = np.concatenate([low, low + boxes_xywh[:, 2:]], 1)
        corners = corners.clip(0, [self.width, self.height] * 2)
        if self.flip:
            corners[:, [0, 2]] = self.width - corners[:, [2, 0]]
        return corners * (self.scale_xy * 2)

    def keypoints(self, points_nK3: np.ndarray, mirrored: Sequence[int]) -> np.ndarray:
        """(n, K, 3). A keypoint names a pixel, so the mirror of 0 is width - 1, and not width as of a box's edge."""
        points = points_nK3.copy()
        if self.flip:
            points = points[:, mirrored]
            points[..., 0] = self.width - 1 - points[..., 0]
        points[..., :2] *= self.scale_xy
        points[points[..., 2] == 0] = 0
        return points


def frame(width: int, height: int, short_side: int, max_size: int, flip: bool) -> Frame:
    """The short side becomes `short_side`, unless the long one would be more than `max_size`."""
    scale = min(short_side / min(width, height), max_size / max(width, height))
    return Frame(width, height, max(1, round(width * scale)), max(1, round(height * scale)), flip)


class Picture(NamedTuple):
    """An image (3, H, W) uint8, and its target."""

    image: Tensor
    target: dict[str, Any]


class ImageBatches(ShardBatches[Sample, Picture]):
    """Batches of images and their objects.

    `images` is a list of uint8 tensors (3, H, W), `targets` a list of dictionaries: `boxes` (n, 4) float, left, top,
    right, bottom in pixels of the image given; `labels` (n,) from 1; `area` (n,) in pixels of the stored image;
    `iscrowd` (n,); `masks` (n, H, W) uint8 and `keypoints` (n, K, 3), x, y, visibility, where asked for; `image_id`;
    `orig_size`, (H, W) of the stored image; `scale`, given by stored size (side by side exactly: from the sizes).
    A slot whose sample failed, or that pads, has an image of zeros without objects and the id -1.

    With `group` the images of a training batch are all at least as wide as high, or all higher than wide, but for one
    batch an epoch.
    """

    suffixes = (*IMAGE_MEMBERS, "json")

    def __init__(
        self,
        manifest: Listing[Sample],
        root: str,
        view: ImageSettings,
        categories: Categories,
        all_categories: Categories,
        rank_slice: RankSlice,
        seed: int,
        window: int,
        *,
        group: bool = True,
        settings: ReadSettings = DEFAULTS,
    ) -> None:
        super().__init__(manifest, root, rank_slice, seed=seed, window=window, train=view.train, settings=settings)
        self.view, self.categories, self.group = view, categories, group
        self._keypoint_counts = keypoint_counts(all_categories.rows)
        columns = Samples.of(manifest.samples)
        self._upright = columns.number("height") > columns.number("width")

    def order(self, epoch: int) -> Order:
        order = super().order(epoch)
        return group_batches(order[:], self._upright, self.rank_slice.batch_size) if self.group else order

    def decode(self, sample: Sample, members: dict[str, bytes], epoch: int) -> Picture:
        rows = self._annotations(sample, members.get("json", b""))
        files = [data for suffix, data in members.items() if suffix != "json"]
        if len(files) != 1:
            raise SampleError("malformed", f"{sample.key}: {len(files)} images in one sample")
        placed = self._frame(sample, epoch)
        needed = placed.new_width, placed.new_height
        try:
            image = decode_image(files[0], sample.width, sample.height, formats=self.view.formats, needed=needed)
        except ImageError as error:
            raise SampleError(error.cause, f"{sample.key}: {error}") from error
        return Picture(placed.image(image), self._target(rows, placed))

    def collate(self, indices: np.ndarray, items: Sequence[Picture | None]) -> Batch:
        blank = Picture(torch.zeros(3, 64, 64, dtype=torch.uint8), self._target((-1, []), Frame(64, 64, 64, 64, False)))
        whole = [item or blank for item in items]
        return {"images": [item.image for item in whole], "targets": [item.target for item in whole]}

    def _frame(self, sample: Sample, epoch: int) -> Frame:
        # From (seed, epoch, sample): what a sample looks like depends on no other sample and on no history.
        rng = np.random.default_rng((self.seed, epoch, zlib.crc32(sample.key.encode(errors="surrogatepass"))))
        view = self.view
        short = view.short_sides[int(rng.integers(len(view.short_sides)))] if view.train else view.short_sides[-1]
        flip = bool(view.train and view.flip and rng.integers(0, 2))
        return frame(sample.width, sample.height, short, view.max_size, flip)

    def _annotations(self, sample: Sample, text: bytes) -> tuple[int, list[dict[str, Any]]]:
        """The image's id and its records: checked, since whoever made the shards may not have. Raises SampleError."""
        try:
            content = parse_json(text, "")
            image, rows = content["image"], content["annotations"]
            image_id = int(image["id"])
            problems = list(check_image(image))
            for row in rows:
                problems += check_annotation(row, image, self._keypoint_counts)
        except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SampleError("malformed", f"{sample.key}: its .json holds no COCO records ({error})") from error
        if problems or (image["width"], image["height"]) != (sample.width, sample.height):
            detail = ": ".join(problems[0]) if problems else "its .json has another size than the manifest"
            raise SampleError("malformed", f"{sample.key}: {detail}")
        return image_id, [row for row in rows if row["category_id"] in self.categories.label_of]

    def _target(self, records: tuple[int, list[dict[str, Any]]], placed: Frame) -> dict[str, Any]:
        image_id, rows = records
        boxes = placed.boxes(np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4))
        if self.view.train:
            # A pixel is the least that a box can be regressed to; some of COCO's have no width or height at all.
            sides = (boxes[:, 2:] - boxes[:, :2]) / placed.scale_xy
            kept = [
                k
                for k, row in enumerate(rows)
                if not row.get("iscrowd", 0) and (sides[k] >= 1).all() and (not self.view.masks or _segmentation(row))
            ]
            rows, boxes = [rows[k] for k in kept], boxes[kept]
        target: dict[str, Any] = {
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor([self.categories.label_of[row["category_id"]] for row in rows], dtype=torch.long),
            "iscrowd": torch.tensor([row.get("iscrowd", 0) for row in rows], dtype=torch.long),
            "area": torch.tensor([object_area(row) for row in rows], dtype=torch.float32),
            "image_id": image_id,
            "orig_size": (placed.height, placed.width),
            "scale": placed.scale_xy[0],
        }
        if self.view.masks:
            target["masks"] = _masks(rows, placed)
        if self.view.keypoints:
            target["keypoints"] = self._keypoints(rows, placed)
        return target

    def _keypoints(self, rows: Sequence[dict[str, Any]], placed: Frame) -> Tensor:
        count = len(self.categories.keypoint_names)
        none = [0] * (3 * count)
        values = [row.get("keypoints") or none for row in rows]
        points = np.array(values, dtype=np.float64).reshape(-1, count, 3)
        return torch.tensor(placed.keypoints(points, self.view.mirrored), dtype=torch.float32)


def object_area(row: dict[str, Any]) -> float:
    """An annotation's area in pixels; its box's where it is not said."""
    return float(row.get("area", row["bbox"][2] * row["bbox"][3]))


def group_batches(order: np.ndarray, group_of: np.ndarray, batch_size: int) -> np.ndarray:
    """`order`, rearranged so that each batch of it is of one group; a function of its arguments alone.

    A batch stands where the last of its samples stood. What is left over of the groups comes at the end, in the old
    order: one mixed batch at most for two groups, and then the samples that this epoch leaves out.
    """
    groups = group_of[order]
    full: list[np.ndarray] = []
    left: list[np.ndarray] = []
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        whole = len(places) // batch_size * batch_size
        full += list(places[:whole].reshape(-1, batch_size))
        left.append(places[whole:])
    full.sort(key=lambda places: int(places[-1]))
    return order[np.concatenate([*full, np.sort(np.concatenate(left))])]


def _masks(rows: Sequence[dict[str, Any]], placed: Frame) -> Tensor:
    height, width = placed.new_height, placed.new_width
    outlines = [_segmentation(row) for row in rows]
    longest = max((outline(given) for given in outlines if given), default=0) * max(placed.scale_xy)
    try:
        limits.MASKS.check(len(rows) * max(height * width, placed.height * placed.width))
        limits.OUTLINE.check(int(longest))
    except limits.TooLarge as error:
        raise SampleError("too large", str(error)) from error
    none = np.zeros((height, width), np.uint8)  # of an object without one, where all are looked at
    masks = [given_mask(g, placed.scale_xy, height, width, placed.flip) if g else none for g in outlines]
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width, dtype=torch.uint8)


def _segmentation(row: Mapping[str, Any]) -> Any:
    return usable_segmentation(row.get("segmentation"))
