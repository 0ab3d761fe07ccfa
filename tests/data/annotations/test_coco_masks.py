"""Run lengths and polygons as pixels, beside pycocotools."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks

from helpers.coco import compressed, rectangle, uncompressed
from nlnet.data.annotations.coco_masks import given_mask, polygon_mask, rle_mask, run_lengths


def random_mask(seed: int) -> np.ndarray:
    """Speckles, or blocks whose runs are long and differ by much."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    return mask if seed % 2 else np.kron(mask[: height // 9 + 1, : width // 9 + 1], np.ones((37, 31), np.uint8))


@pytest.mark.parametrize("seed", range(40))
def test_run_lengths_are_what_pycocotools_wrote(seed: int) -> None:
    mask = random_mask(seed)
    assert np.array_equal(rle_mask(compressed(mask)), mask)
    assert np.array_equal(rle_mask(uncompressed(mask)), mask)
    assert run_lengths(compressed(mask)["counts"], *mask.shape).tolist() == uncompressed(mask)["counts"]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([5, 5], "10 pixels for 24"),
        ([30, -6], "not whole numbers from 0"),
        ([24.0], "not whole numbers from 0"),
        ("", "0 pixels for 24"),
        ("é", "the letter 'é'"),
        ("P", "end within a number"),
        ("P" * 50, "without end"),
    ],
)
def test_run_lengths_that_cannot_be(counts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run_lengths(counts, 4, 6)


def test_polygons_scale_before_they_are_drawn_and_runs_to_the_nearest_pixel() -> None:
    polygons = [[2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0], [12.0, 1.0, 15.0, 1.0, 15.0, 4.0]]
    larger = [[3 * value for value in points] for points in polygons]
    drawn = masks.merge(masks.frPyObjects(larger, 30, 48))
    wanted = rle_mask({"size": [30, 48], "counts": drawn["counts"].decode()})
    assert np.array_equal(given_mask(polygons, (3.0, 3.0), 30, 48, flip=False), wanted)
    assert np.array_equal(given_mask(polygons, (3.0, 3.0), 30, 48, flip=True), wanted[:, ::-1])
    assert np.array_equal(polygon_mask(polygons[:1], 10, 16), rectangle(10, 16, (2, 2, 8, 6)))
    runs = uncompressed(rectangle(10, 16, (2, 2, 8, 6)))
    assert np.array_equal(given_mask(runs, (3.0, 3.0), 30, 48, flip=False), rectangle(30, 48, (6, 6, 24, 18)))
