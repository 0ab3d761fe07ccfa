"""What a data set says about its videos or images, whatever its files look like."""

from dataclasses import dataclass, field
from typing import Any

from nlnet.data.annotations.coco_plausible import Plausibility

TASKS = ("multilabel", "multiclass", "detection")

Labels = tuple[tuple[int, float, float], ...]
"""(class index, start s, end s) of each label; an end of inf is that of the video."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row: a video or image, its split, its labels, the segment of the video (start s, end s) it is about, if any.

    `stems` are the file names it may have, without suffix, the most telling first: only the last of several can be a
    file that still has to be cut. With a slash they are paths below the folder of the videos. `folder` is the class
    folder that may hold the file. `notes` is JSON that goes into the sample as it is: for images, COCO's records
    `{"image": ..., "annotations": [...]}`. The `video` of an image is its `file_name`, which decides alone.
    """

    video: str
    split: str
    labels: Labels
    stems: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    folder: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Annotations:
    """All rows of a data set, its class names in the order of their indices, and the manifest's task and details.

    `task` is one of `TASKS`. Those of "detection" are images with notes, and `details` has their `categories`;
    `plausible` says of each split what is hardly meant. `left_out` are (split, file, why) of files with rows that say
    nothing which could be learnt.
    """

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    task: str
    details: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    plausible: dict[str, Plausibility] = field(default_factory=dict)

    @property
    def images(self) -> bool:
        """Whether the files are images, which go into shards as they are."""
        return self.task == "detection"
