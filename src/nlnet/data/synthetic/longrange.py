"""A built-in instrument for long-range dependence: relations at known distances in space, in time, and in both.

A clip is 4 frames of 32 x 32 pixels and shows four glyphs for one frame each, at the corners of a rectangle that is so
many pixels wide and so many frames long: a white anchor, a red glyph elsewhere in the same frame, a green one at the
same place earlier or later, and a blue one elsewhere at another time. Each is large or small. With the level of the
distance these are 16 x levels scenes, each equally often.

Four *local* classes say that a glyph is large. Three relational classes say that the anchor and one of the others have
the same size: the XNOR of two independent attributes. As long as no feature sees a part of both, a network that
averages features over positions computes f(anchor) + h(other), whose AUROC is exactly 0.5 (`nlnet.data.synthetic.clips`
says why). Attention within frames can relate the pair in *space* alone, attention over the frames of one place the pair
in *time* alone, and attention over space-time all three, the pair apart in *both* included.

The clips of each level are a subset, and have figures of their own.
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
from nlnet.data.shards.writer import RawSample
from nlnet.data.synthetic.drawing import background, paint, write_clips

DATASET = "longrange"
SEED = 20180618
FRAMES, SIZE, FPS = 4, 32, 4.0
LARGE, SMALL = 7, 3  # pixels across
SPLITS = {"train": 2016, "val": 1008}

COLORS = {  # lowest and highest RGB
    "anchor": ((205, 205, 205), (255, 255, 255)),
    "space": ((215, 40, 30), (255, 80, 70)),
    "time": ((30, 190, 40), (70, 240, 80)),
    "both": ((50, 90, 225), (90, 130, 255)),
}
GRAY = ((110, 110, 110), (160, 160, 160))
CLASSES = (
    *(f"c{k:03d} Glyph {name} is large" for k, name in enumerate(COLORS)),
    "c004 Anchor and the glyph apart in space have the same size",
    "c005 Anchor and the glyph apart in time have the same size",
    "c006 Anchor and the glyph apart in both have the same size",
)
GROUPS = {"local": (0, 1, 2, 3), "relational": (4, 5, 6), "space": (4,), "time": (5,), "both": (6,)}


class Difficulty(NamedTuple):
    """What can be made harder.

    Args:
        distances: (pixels, frames) between the centers of a pair, the levels; each as often as the others.
        distractors: gray glyphs that take part in no relation.
        noise: standard deviation of the pixels, of 255.
        contrast: of the glyphs against the wall, at most 1.
    """

    distances: tuple[tuple[int, int], ...] = ((18, 1), (21, 2), (24, 3))
    distractors: int = 0
    noise: float = 4.0
    contrast: float = 1.0


DEFAULT = Difficulty()


class Scene(NamedTuple):
    """What a clip shows: four independent binary attributes, large or small, and the level of the distance."""

    anchor: bool
    space: bool
    time: bool
    both: bool
    level: int

    @property
    def relations(self) -> tuple[bool, bool, bool]:
        """Whether the anchor and the glyph in space, time and both are alike."""
        return self.anchor == self.space, self.anchor == self.time, self.anchor == self.both


def scene(index: int, levels: int) -> Scene:
    """The scene of clip `index`: any 16 x levels clips in a row show each once."""
    anchor, space, time, both = (bool(index >> bit & 1) for bit in range(4))
    return Scene(anchor, space, time, both, index // 16 % levels)


def render(split: str, index: int, difficulty: Difficulty = DEFAULT, *, seed: int = SEED) -> tuple[np.ndarray, Labels]:
    """Clip `index` of a split: frames (4, 32, 32, 3) uint8 RGB, and its labels (class index, start s, end s)."""
    rng = np.random.default_rng([seed, index, *split.encode()])
    what = scene(index, len(difficulty.distances))
    places = corners(rng, *difficulty.distances[what.level])
    frames_THWC = background(rng, FRAMES, SIZE)
    for _ in range(difficulty.distractors):
        t, y, x = (int(value) for value in rng.integers([0, 2, 2], [FRAMES, SIZE - 2, SIZE - 2]))
        _draw(frames_THWC, (t, y, x), bool(rng.integers(2)), rng.uniform(*GRAY), difficulty.contrast)
    for name, place in places.items():
        _draw(frames_THWC, place, getattr(what, name), rng.uniform(*COLORS[name]), difficulty.contrast)
    frames_THWC += rng.normal(0, difficulty.noise, frames_THWC.shape)
    holds = (*what[:4], *what.relations)
    labels = tuple((c, 0.0, FRAMES / FPS) for c, true in enumerate(holds) if true)
    return np.clip(np.rint(frames_THWC), 0, 255).astype(np.uint8), labels


def corners(rng: np.random.Generator, pixels: int, frames: int) -> dict[str, tuple[int, int, int]]:
    """Where each glyph begins to be seen and where its center is: (t, y, x), so far apart along x and t."""
    margin = LARGE // 2
    x = int(rng.integers(margin, SIZE - margin - pixels))
    t = int(rng.integers(0, FRAMES - frames))
    xs, ts = rng.permutation([x, x + pixels]).tolist(), rng.permutation([t, t + frames]).tolist()
    y, y_space, y_both = (int(value) for value in rng.integers(margin, SIZE - margin, 3))
    return {
        "anchor": (ts[0], y, xs[0]),
        "space": (ts[0], y_space, xs[1]),
        "time": (ts[1], y, xs[0]),
        "both": (ts[1], y_both, xs[1]),
    }


def _draw(
    frames_THWC: np.ndarray, place: tuple[int, int, int], large: bool, color: np.ndarray, contrast: float
) -> None:
    t, y, x = place
    half = (LARGE if large else SMALL) // 2
    window = frames_THWC[t : t + 1, y - half : y + half + 1, x - half : x + half + 1]
    paint(window, np.full(window.shape[:3], contrast), color)


def build(
    folder: Path, clips: Mapping[str, int] | None = None, difficulty: Difficulty = DEFAULT, *, seed: int = SEED
) -> None:
    """Writes the shards and manifests into a new `folder`, which `data=longrange data.shards=FOLDER` trains on.

    The same arguments give the same bytes. Raises ValueError for a difficulty that cannot be drawn, and for numbers of
    clips that are no multiples of the 16 x levels scenes.
    """
    _check(difficulty)
    folder.mkdir(parents=True)
    for split, count in (clips or SPLITS).items():
        scenes = 16 * len(difficulty.distances)
        if count <= 0 or count % scenes:
            raise ValueError(f"{count} clips for the split {split!r}: needs a positive multiple of {scenes}")
        make = partial(_raw_sample, split, difficulty=difficulty, seed=seed)
        shards, samples = write_clips(folder, DATASET, split, count, make)
        subsets = {
            f"{pixels}px_{frames}f": [k for k in range(count) if scene(k, len(difficulty.distances)).level == level]
            for level, (pixels, frames) in enumerate(difficulty.distances)
        }
        details = {"subsets": subsets}
        write_manifest(
            folder, Manifest(DATASET, split, "multilabel", CLASSES, GROUPS, tuple(shards), tuple(samples), details)
        )


def _check(difficulty: Difficulty) -> None:
    for pixels, frames in difficulty.distances:
        if not LARGE <= pixels <= SIZE - LARGE or not 1 <= frames < FRAMES:
            raise ValueError(
                f"a distance of {pixels} pixels and {frames} frames: needs {LARGE} to {SIZE - LARGE} pixels and"
                f" 1 to {FRAMES - 1} frames"
            )


def _raw_sample(split: str, index: int, *, difficulty: Difficulty, seed: int) -> RawSample:
    frames_THWC, labels = render(split, index, difficulty, seed=seed)
    info = VideoInfo(FRAMES, FPS, SIZE, SIZE)
    return RawSample(f"{split}{index:06d}", encode_frames(frames_THWC, FPS), info, labels)
