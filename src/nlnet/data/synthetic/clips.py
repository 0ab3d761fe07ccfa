"""A built-in data set that needs what non-local blocks do, made on first use as H.264 clips in WebDataset shards.

A clip is 8 frames of 32 x 32 pixels: a warm glyph on the left in the first half, a cool glyph on the right in the
second half, each filled or hollow and a square or a diamond, and between them a drifting bar, upright or flat. Five
binary attributes, hence 32 scenes, each equally often.

Five *local* classes name one attribute each and are visible in one place of one frame. Two *relational* classes ask
whether the glyphs have the same fill, or the same shape: the XNOR of one attribute on the left, early, and one on the
right, later. A network that never sees both glyphs at once and averages over positions computes f(left) + h(right).
With balanced independent attributes such a score has the same mean whether the relation holds or not, so there is
nothing to learn from; and as a function of the two attributes its AUROC is exactly 0.5: of the four comparisons between
a positive and a negative pair it wins as many as it loses. Position, drift, colors, onset, light and noise vary.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nlnet.data.annotations.records import Labels
from nlnet.data.media.encode import encode_frames
from nlnet.data.media.video import VideoInfo
from nlnet.data.shards.manifest import Manifest, Sample, Shard, write_manifest
from nlnet.data.shards.writer import RawSample
from nlnet.data.synthetic.drawing import background, paint, write_clips

SEED = 20180618
FRAMES, SIZE, FPS = 8, 32, 8.0
SPLITS = {  # clips of each split
    "charades": {"train": 2048, "test": 1024},
    "kinetics": {"train": 2048, "val": 1024},
}

WARM = ((215, 130, 20), (255, 190, 70))  # lowest and highest RGB of the left glyph
COOL = ((20, 150, 215), (70, 210, 255))

CLASSES = (
    "c000 Left glyph is filled",
    "c001 Right glyph is filled",
    "c002 Left glyph is a square",
    "c003 Right glyph is a square",
    "c004 Bar stands upright",
    "c005 Left glyph early and right glyph later have the same fill",
    "c006 Left glyph early and right glyph later have the same shape",
)
GROUPS = {"local": (0, 1, 2, 3, 4), "relational": (5, 6)}
PAIR_CLASSES = (  # index = 2 * same fill + same shape
    "both differ",
    "same shape, other fill",
    "same fill, other shape",
    "both the same",
)


class Scene(NamedTuple):
    """What a clip shows: five independent binary attributes."""

    left_filled: bool
    right_filled: bool
    left_square: bool
    right_square: bool
    bar_upright: bool

    @property
    def same_fill(self) -> bool:
        return self.left_filled == self.right_filled

    @property
    def same_shape(self) -> bool:
        return self.left_square == self.right_square


SCENES = 2 ** len(Scene._fields)


def scene(index: int) -> Scene:
    """The scene of clip `index`: its lowest five bits, so that any 32 clips in a row show each scene once."""
    return Scene(*(bool(index >> bit & 1) for bit in range(len(Scene._fields))))


def render(split: str, index: int, *, seed: int = SEED) -> tuple[np.ndarray, Labels]:
    """Clip `index` of a split: frames (8, 32, 32, 3) uint8 RGB, and its Charades labels (class index, start s, end s).

    A function of (seed, split, index) alone: no generator is carried from clip to clip.
    """
    rng = np.random.default_rng([seed, index, *split.encode()])
    what = scene(index)
    half = FRAMES // 2
    left_on, right_off = int(rng.integers(0, 2)), int(rng.integers(FRAMES - 1, FRAMES + 1))
    early, later = slice(left_on, half), slice(half, right_off)

    frames_THWC = background(rng, FRAMES, SIZE)
    bar = _bar(_offsets(rng, 15, 16), what.bar_upright)
    left = _glyph(_offsets(rng, 4, 5)[:, early], what.left_filled, what.left_square)
    right = _glyph(_offsets(rng, 26, 27)[:, later], what.right_filled, what.right_square)
    paint(frames_THWC, bar, np.full(3, rng.uniform(150, 210)))
    paint(frames_THWC[early], left, rng.uniform(*WARM))
    paint(frames_THWC[later], right, rng.uniform(*COOL))
    frames_THWC += rng.normal(0, 4, frames_THWC.shape)

    on, off = left_on / FPS, right_off / FPS
    spans = [(on, half / FPS), (half / FPS, off)] * 2 + [(0.0, FRAMES / FPS), (on, off), (on, off)]
    holds = (*what, what.same_fill, what.same_shape)
    labels = tuple((c, *span) for c, (true, span) in enumerate(zip(holds, spans, strict=True)) if true)
    return np.clip(np.rint(frames_THWC), 0, 255).astype(np.uint8), labels


def _offsets(rng: np.random.Generator, low_x: float, high_x: float) -> np.ndarray:
    """|y|, |x| of every pixel from a center that drifts up or down by at most one pixel a frame: (2, T, H, W)."""
    low_y, high_y = 5, SIZE - 6
    center_T = np.clip(rng.uniform(low_y, high_y) + rng.uniform(-1, 1) * np.arange(FRAMES), low_y, high_y)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    return np.abs(
        np.stack([y - center_T[:, None, None], np.broadcast_to(x - rng.uniform(low_x, high_x), (FRAMES, SIZE, SIZE))])
    )


def _glyph(offsets: np.ndarray, filled: bool, square: bool) -> np.ndarray:
    """Coverage (T, H, W) in [0, 1] of a square or a diamond, its outline alone unless it is filled."""
    y, x = offsets
    outside = np.maximum(x, y) - 3.5 if square else (x + y - 5.0) / np.sqrt(2)
    solid = np.clip(0.5 - outside, 0, 1)
    return solid if filled else solid - np.clip(-1.3 - outside, 0, 1)


def _bar(offsets: np.ndarray, upright: bool) -> np.ndarray:
    """Coverage (T, H, W) in [0, 1] of a bar of 3 x 10 pixels."""
    along, across = offsets if upright else offsets[::-1]
    return np.clip(2 - across, 0, 1) * np.clip(5.5 - along, 0, 1)


def build(folder: Path, dataset: str, clips: Mapping[str, int] | None = None, *, seed: int = SEED) -> None:
    """Writes the shards and manifests of `dataset` into a new `folder`: so many clips of each split.

    The same arguments give the same bytes. Raises ValueError unless the numbers of clips are multiples of 32, which is
    what makes every class hold for exactly half of them.
    """
    folder.mkdir(parents=True)
    for split, count in (clips or SPLITS[dataset]).items():
        if count <= 0 or count % SCENES:
            raise ValueError(f"{count} clips for the split {split!r}: needs a positive multiple of {SCENES}")
        make = partial(_raw_sample, dataset, split, seed=seed)
        shards, samples = write_clips(folder, dataset, split, count, make)
        write_manifest(folder, _manifest(dataset, split, shards, samples))


def _raw_sample(dataset: str, split: str, index: int, *, seed: int) -> RawSample:
    frames_THWC, labels = render(split, index, seed=seed)
    if dataset == "kinetics":
        what = scene(index)
        labels = ((2 * what.same_fill + what.same_shape, 0.0, FRAMES / FPS),)
    return RawSample(f"{split}{index:06d}", encode_frames(frames_THWC, FPS), VideoInfo(FRAMES, FPS, SIZE, SIZE), labels)


def _manifest(dataset: str, split: str, shards: Sequence[Shard], samples: Sequence[Sample]) -> Manifest:
    multilabel = dataset == "charades"
    return Manifest(
        dataset=dataset,
        split=split,
        task="multilabel" if multilabel else "multiclass",
        classes=CLASSES if multilabel else PAIR_CLASSES,
        groups=GROUPS if multilabel else {},
        shards=tuple(shards),
        samples=tuple(samples),
    )
