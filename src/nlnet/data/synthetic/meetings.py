"""A built-in data set that needs to follow objects over time, with the boxes of the objects.

A clip is 3 frames of 40 x 40 pixels with four discs near the corners of a square, too far apart for a feature of the
network to see two of them. In the first frame each is warm or cool, in the others all are gray. Then two neighbors
meet, on one of the square's four sides. The class says how these two were colored: both warm, one of each, both cool.

Two warm and two cool neighbors, or one that differs from three: 12 arrangements, with each of the 4 sides 48 scenes,
each equally often. On every side half of the arrangements have two colors, and two of the four sides of every
arrangement do. So where they meet tells nothing, and that the colors of all four are seen leaves two classes as likely
as each other, or one of three at best as likely as the others together: no sum over what is seen in single places and
frames is right in more than about half of the clips. A gray disc has to be followed back to where it had its color:
boxes of neighboring frames overlap along its way.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nlnet.data.annotations.records import Labels
from nlnet.data.media.encode import encode_frames
from nlnet.data.media.video import VideoInfo
from nlnet.data.shards.manifest import Manifest, write_manifest
from nlnet.data.shards.regions.boxes import VideoRegions
from nlnet.data.shards.regions.writer import write_regions
from nlnet.data.shards.writer import RawSample
from nlnet.data.synthetic.drawing import background, paint, write_clips

SEED = 20180618
FRAMES, SIZE, FPS = 3, 40, 3.0
RADIUS, HALF = 3.5, 5.0  # pixels: of a disc, and half of the side of its box
APART, STEP = 20, 8.5  # pixels: between neighbors, and what those that meet move a frame

WARM, COOL, GRAY = (
    ((225, 110, 20), (255, 150, 60)),
    ((20, 130, 225), (60, 170, 255)),
    ((150, 150, 150), (190, 190, 190)),
)
CLASSES = ("c000 Two warm discs meet", "c001 A warm and a cool disc meet", "c002 Two cool discs meet")
DATASETS = {"charades_regions": "charades", "something": "something"}
"""The built-in sets, and the data set whose shards each is like."""
SPLITS = {  # clips of each split
    "charades": {"train": 1920, "test": 960},
    "something": {"train": 1920, "val": 960},
}
_ARRANGEMENTS = [colors for k in range(16) if sum(colors := tuple(bool(k >> bit & 1) for bit in range(4))) in (1, 3)
                 or colors in ((True, True, False, False), (False, True, True, False),
                               (False, False, True, True), (True, False, False, True))]  # fmt: skip


class Scene(NamedTuple):
    """Which of the four discs are warm, in order around the square, and the side whose two ends meet."""

    warm: tuple[bool, ...]
    side: int

    @property
    def label(self) -> int:
        """The class: how the two that meet are colored."""
        return 2 - self.warm[self.side] - self.warm[(self.side + 1) % 4]


SCENES = 4 * len(_ARRANGEMENTS)


def scene(index: int) -> Scene:
    """The scene of clip `index`: any 48 clips in a row show each once."""
    return Scene(_ARRANGEMENTS[index // 4 % len(_ARRANGEMENTS)], index % 4)


def render(split: str, index: int, *, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Clip `index` of a split: frames (3, 40, 40, 3) uint8 RGB, and the discs' boxes (3, 4, 4) in pixels."""
    rng = np.random.default_rng([seed, index, *split.encode()])
    what = scene(index)
    frames_THWC = background(rng, FRAMES, SIZE)
    centers_T42 = _ways(rng, what.side)
    for disc, warm in enumerate(what.warm):
        color, gray = rng.uniform(*(WARM if warm else COOL)), rng.uniform(*GRAY)
        coverage_THW = _disc(centers_T42[:, disc])
        paint(frames_THWC[:1], coverage_THW[:1], color)
        paint(frames_THWC[1:], coverage_THW[1:], gray)
    frames_THWC += rng.normal(0, 4, frames_THWC.shape)
    boxes = np.concatenate([centers_T42 - HALF, centers_T42 + HALF], 2).clip(0, SIZE)
    mixed = np.stack([boxes_44[rng.permutation(4)] for boxes_44 in boxes])  # their order says nothing of which is which
    return np.clip(np.rint(frames_THWC), 0, 255).astype(np.uint8), mixed


def _ways(rng: np.random.Generator, side: int) -> np.ndarray:
    """(T, 4, 2) x, y of each disc's center: still but for a trembling, and towards each other for those that meet."""
    corners_42 = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * APART
    centers_T42 = corners_42 + rng.uniform(HALF, SIZE - HALF - APART, 2) + rng.uniform(-0.5, 0.5, (FRAMES, 4, 2))
    one, other = side, (side + 1) % 4
    towards = (corners_42[other] - corners_42[one]) / APART
    for frame in (1, 2):
        centers_T42[frame, one] += STEP * towards
        centers_T42[frame, other] -= STEP * towards
    return centers_T42


def _disc(centers_T2: np.ndarray) -> np.ndarray:
    """Coverage (T, H, W) in [0, 1]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    return np.stack([np.clip(0.5 + RADIUS - np.hypot(x - cx, y - cy), 0, 1) for cx, cy in centers_T2])


def build(folder: Path, dataset: str, clips: Mapping[str, int] | None = None, *, seed: int = SEED) -> None:
    """Writes shards, manifests and regions of `dataset`, "charades" or "something", into a new `folder`.

    The same arguments give the same bytes. Raises ValueError for numbers of clips that are no multiples of 48.
    """
    folder.mkdir(parents=True)
    for split, count in (clips or SPLITS[dataset]).items():
        if count <= 0 or count % SCENES:
            raise ValueError(f"{count} clips for the split {split!r}: needs a positive multiple of {SCENES}")
        shards, samples = write_clips(folder, dataset, split, count, partial(_raw_sample, split, seed=seed))
        task = "multilabel" if dataset == "charades" else "multiclass"
        manifest = Manifest(dataset, split, task, CLASSES, {}, tuple(shards), tuple(samples))
        write_manifest(folder, manifest)
        write_regions(folder, manifest, lambda sample, split=split: _regions(split, sample.key, seed))  # type: ignore[misc]


def _raw_sample(split: str, index: int, *, seed: int) -> RawSample:
    frames_THWC, _ = render(split, index, seed=seed)
    labels: Labels = ((scene(index).label, 0.0, FRAMES / FPS),)
    return RawSample(f"{split}{index:06d}", encode_frames(frames_THWC, FPS), VideoInfo(FRAMES, FPS, SIZE, SIZE), labels)


def _regions(split: str, key: str, seed: int) -> VideoRegions:
    _, boxes = render(split, int(key.removeprefix(split)), seed=seed)
    return VideoRegions.of({frame: boxes[frame] / SIZE for frame in range(FRAMES)})
