"""Regions that a user gives: one JSON file with the boxes of any frames of any videos.

    {"VIDEO": {"width": 640, "height": 480, "frames": {"0": [[left, top, right, bottom], ...], "8": [...]}}}

VIDEO is the key of a sample. The boxes are in pixels of a picture `width` x `height`, which has the proportions of the
stored video; frames are those of the stored video, counted from 0. A frame takes the boxes of the listed frame that is
nearest to it, none where that has an empty list.
"""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nlnet import limits
from nlnet.data.shards.manifest import Sample
from nlnet.data.shards.regions.boxes import VideoRegions
from nlnet.errors import UserError
from nlnet.reading import read_json

_PROPORTIONS = 0.02  # that a stored video may be off by, since its sides are whole and even numbers
_HALF = 0.5  # pixel that a box may stand out by


class GivenRegions:
    """The regions in a file of the user. Raises UserError for a file that is none, or holds what is no box."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = read_json(path, limits.ANNOTATIONS, limits.ANNOTATION_MEMORY)
        except OSError as error:
            raise UserError(f"data.regions={path}: cannot be read: {error.strerror or error}") from error
        if not isinstance(content, Mapping):
            raise UserError(f"{path}: holds a {type(content).__name__}, expected the boxes by video")
        self._sizes: dict[str, tuple[float, float]] = {}
        self._videos: dict[str, VideoRegions] = {}
        for key, video in content.items():
            self._sizes[key], self._videos[key] = _read_video(video, f"{path}: {key}")

    def check(self, samples: Iterable[Sample], where: str) -> None:
        """Raises UserError where the file is of other videos than these samples."""
        found = 0
        for sample in samples:
            found += self.lists(sample.key, (sample.height, sample.width), sample.frames, where)
        if not found:
            first = next(iter(self._videos), "none")
            raise UserError(f"{where}: none of its videos (the first is {first}) is in the data; give theirs")

    def has(self, key: str) -> bool:
        """Whether a video of this name is in the file."""
        return key in self._videos

    def lists(self, key: str, size: tuple[int, int], frames: int, where: str) -> bool:
        """Whether the file lists this video, of so many frames of height and width `size`.

        Raises UserError where it lists another of that name.
        """
        if key not in self._videos:
            return False
        width, height = self._sizes[key]
        if abs(width * size[0] / (height * size[1]) - 1) > _PROPORTIONS:
            raise UserError(
                f"{where}: {key}: its boxes are of a picture of {width:g} x {height:g}, and the video has"
                f" {size[1]} x {size[0]}; they are of another clip"
            )
        if (last := int(self._videos[key].frames.max(initial=0))) >= frames:
            raise UserError(
                f"{where}: {key}: boxes of frame {last}, and the video has {frames} frames; they are of another clip"
            )
        return True

    def of(self, key: str) -> VideoRegions:
        """None of a video that the file does not list."""
        return self._videos.get(key) or VideoRegions.of({})

    def note(self, key: str) -> bytes:
        """What a video's regions are known again by."""
        found = self._videos.get(key)
        return b"" if found is None else np.uint32(zlib.crc32(found.pack())).tobytes()


def _read_video(video: Any, where: str) -> tuple[tuple[float, float], VideoRegions]:
    if not isinstance(video, Mapping) or not isinstance(frames := video.get("frames"), Mapping):
        raise UserError(f'{where}: expected {{"width", "height", "frames"}}')
    width, height = (_side(video.get(name), f"{where}: {name}") for name in ("width", "height"))
    boxes = {}
    for frame, listed in frames.items():
        if not (frame.isascii() and frame.isdigit() and len(frame) < 10):
            raise UserError(f"{where}: frame {frame!r:.40}: expected its number, from 0")
        if not isinstance(listed, list):
            raise UserError(f"{where}, frame {frame}: expected a list of boxes")
        here = [_read_box(box, width, height, f"{where}, frame {frame}: box {k}") for k, box in enumerate(listed)]
        boxes[int(frame)] = np.array(here).reshape(-1, 4)
    return (width, height), VideoRegions.of(boxes)


def _side(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1 << 16:
        raise UserError(f"{where}={value!r:.40}: expected the pixels of the picture that the boxes are of")
    return float(value)


def _read_box(box: Any, width: float, height: float, where: str) -> np.ndarray:
    """As fractions of the sides. Raises UserError, with the mend."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        raise UserError(f"{where}: {box!r:.80} are not the four numbers left, top, right, bottom")
    left, top, right, bottom = box
    if not np.isfinite(box).all():
        raise UserError(f"{where}: {box!r:.80} are not all finite numbers; leave the box out")
    if left >= right or top >= bottom:
        raise UserError(f"{where}: {box!r:.80} has no area; expected left, top, right, bottom, rising")
    if min(left, top) < -_HALF or right > width + _HALF or bottom > height + _HALF:
        raise UserError(f"{where}: {box!r:.80} is outside of the {width:g} x {height:g} frame; clip it")
    return np.clip(np.array(box) / [width, height, width, height], 0, 1)
