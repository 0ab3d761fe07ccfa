"""What a verification is asked for, and what it finds."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nlnet.data.shards.manifest import Manifest


class Finding(NamedTuple):
    """Something that is wrong: the shard or the sample, the cause to count by, and what was found."""

    where: str
    cause: str
    detail: str


class Thumbnail(NamedTuple):
    """A sample of the contact sheet: an image, or the middle frame of a video, (H, W, 3) uint8."""

    key: str
    split: str
    labels: list[str]
    frames: int
    image: np.ndarray


@dataclass
class Report:
    """What was read, and what was found.

    `short` are (split, key, frames) of videos with fewer frames than a clip spans, which training repeats cyclically;
    they are no fault. `labels` counts, for each split, the samples of every class.
    """

    root: str
    span: int
    manifests: list[Manifest] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    short: list[tuple[str, str, int]] = field(default_factory=list)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    thumbnails: list[Thumbnail] = field(default_factory=list)
    bytes: int = 0
    samples: int = 0
    decoded: int = 0


@dataclass(frozen=True)
class Options:
    """How to check.

    Args:
        decode: fraction of the videos that are decoded whole.
        span: frames below which a video is short.
        thumbnails: how many samples of each split to keep for the contact sheet.
        workers: shards read at a time.
        duplicates: whether equal videos are allowed.
    """

    decode: float = 0.1
    span: int = 64
    thumbnails: int = 0
    workers: int = 2
    duplicates: bool = False


DEFAULTS = Options()
