"""The clip to explain: of a video, of a sample in shards, of a folder of frames; or an image."""

import re
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nlnet import limits
from nlnet.data.batches.clip_transforms import center_crop, prepare_clips
from nlnet.data.batches.sampling import ClipGeometry, center_start, frame_indices
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.images import ImageError, upright_image
from nlnet.data.media.suffixes import VIDEO_FILES
from nlnet.data.media.video import VideoError, probe
from nlnet.data.shards.reader import SampleError
from nlnet.errors import UserError
from nlnet.prediction.images import find_images
from nlnet.prediction.inputs import Input, find_videos
from nlnet.reading import read_bytes
from nlnet.text import say


class ClipInput(NamedTuple):
    """A clip as a network sees it."""

    name: str
    inputs: Tensor
    """(1, 3, T, side, side)."""
    seconds: list[float] | None
    """When each frame is shown; None where nobody knows."""


def find_clip(
    source: str, key: str | None, split: str | None, start: float | None, geometry: ClipGeometry, side: int, scale: int
) -> ClipInput:
    """The middle square of the clip in the middle of a video, or of the one that begins at second `start`.

    Args:
        source: a video; a folder of videos, prepared shards or tar files, as `predict` takes them, of which `key` names
            the sample, the first for None; or a folder of images, which are its frames in the order of their numbers.
        key: the sample's name.
        split: of prepared shards.
        start: seconds, or of a folder of images the number of the first.
        geometry: the clip.
        side: of the crop, as the network sees it.
        scale: the short side that frames are scaled to before.

    Raises UserError where there is none, or it cannot be read.
    """
    if _is_frames(source):
        return _of_images(Path(source).expanduser(), start, geometry, side, scale)
    video = _chosen(source, key, split)
    try:
        data = video.read()
        info = probe(data)
        stored = video.times if video.times and video.times.frames == info.frames else info.times
        sampled = stored.resampled(geometry.fps)
        count = sampled.times.frames
        limits.FRAMES.check(count, f"at fps={geometry.fps}")
        first = _first(geometry, count, None if start is None else int(sampled.times.nearest(np.array([start]))[0]))
        indices = frame_indices(geometry, count, first)
        crop = center_crop(info.height, info.width, side, scale)
        frames = decode_clip(data, sampled.stored(indices), crop=(crop.top, crop.left, crop.side, crop.side))
        seconds = sampled.times.seconds(indices)
    except (VideoError, SampleError, limits.TooLarge, OSError, IndexError, EOFError) as error:
        raise UserError(f"source={source}: {video.name}: {error}") from error
    _say_short(video.name, count, geometry)
    return ClipInput(video.name, _prepared(frames, side), [float(second) for second in seconds])


def _chosen(source: str, key: str | None, split: str | None) -> Input:
    videos = find_videos(source, split)
    if key is None:
        found = next(videos, None)
        if found is None:
            raise UserError(f"source={source}: no videos in it")
        return found
    others = []
    for video in videos:
        if video.name == key:
            return video
        others.append(video.name)
    raise UserError(f"key={key}: {source} has no such sample; its {len(others)} are such as {', '.join(others[:3])}")


def _is_frames(source: str) -> bool:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return False
    files = list(islice(folder.iterdir(), 10_000))
    videos = [file for file in files if file.suffix.lower() in {*VIDEO_FILES, ".json", ".tar"}]
    return not videos and any(file.suffix.lower() in (".jpg", ".jpeg", ".png") for file in files)


def _of_images(folder: Path, start: float | None, geometry: ClipGeometry, side: int, scale: int) -> ClipInput:
    images = sorted(find_images(folder), key=lambda image: _numbered(image.name))
    first = _first(geometry, len(images), None if start is None else int(start))
    indices = frame_indices(geometry, len(images), first)
    cut: dict[int, np.ndarray] = {}
    for index in indices:
        if index not in cut:
            cut[index] = _square(images[index].path, side, scale)
    sides = sorted({frame.shape[0] for frame in cut.values()})
    if len(sides) > 1:
        raise UserError(f"source={folder}: its images are of different sizes; frames of one video have one")
    _say_short(folder.name, len(images), geometry)
    return ClipInput(folder.name, _prepared(np.stack([cut[index] for index in indices]), side), None)


def _square(path: Path, side: int, scale: int) -> np.ndarray:
    try:
        pixels = np.asarray(upright_image(read_bytes(path, limits.SAMPLE)))
    except (ImageError, limits.TooLarge, OSError) as error:
        raise UserError(f"source={path.parent}: {path.name}: {error}") from error
    crop = center_crop(pixels.shape[0], pixels.shape[1], side, scale)
    return pixels[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]


def _first(geometry: ClipGeometry, frames: int, given: int | None) -> int:
    if given is None:
        return center_start(geometry, frames)
    if not 0 <= given < frames:
        raise UserError(f"start={given}: the frames are 0 to {frames - 1}")
    return min(given, max(frames - geometry.span, 0))


def _say_short(name: str, frames: int, geometry: ClipGeometry) -> None:
    if frames < geometry.span:
        say(f"{name}: {frames} frames, and the clip covers {geometry.span}; its frames repeat")


def _prepared(frames_THWC: np.ndarray, side: int) -> Tensor:
    return prepare_clips([torch.from_numpy(np.ascontiguousarray(frames_THWC))], torch.zeros(1, dtype=torch.bool), side)


def _numbered(name: str) -> list[Any]:
    """ "frame10" behind "frame9"."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
