import numpy as np
import pytest

from nlnet.data.batches.sampling import ClipGeometry, active_classes, center_start, frame_indices, random_start
from nlnet.data.shards.manifest import Sample


def sample(labels, frames=100, fps=10.0):
    return Sample("a", 0, 0, 0, 0, frames, fps, 64, 48, tuple(labels))


def test_starts_cover_exactly_the_places_where_the_clip_fits():
    geometry = ClipGeometry(frames=4, stride=3)
    rng = np.random.default_rng(0)
    assert {random_start(geometry, 20, rng) for _ in range(500)} == set(range(9))
    assert {random_start(geometry, 7, rng) for _ in range(20)} == {0}
    assert center_start(geometry, 20) == 4
    assert center_start(geometry, 7) == 0


def test_a_short_video_is_repeated_cyclically():
    assert frame_indices(ClipGeometry(8, 2), frames=5, start=0).tolist() == [0, 2, 4, 1, 3, 0, 2, 4]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0, 19, [1]),  # 0.0 to 1.9 s
        (20, 50, [1, 2]),  # touches both ends
        (25, 49, [1]),
        (51, 60, [2]),
        (90, 99, []),
    ],
)
def test_the_training_label_is_what_overlaps_the_clip(first, last, expected):
    video = sample([(1, 0.0, 4.9), (2, 5.0, 7.0), (2, 6.0, 6.5)])
    assert active_classes(video, np.arange(first, last + 1)) == expected


def test_the_test_label_is_the_union_and_a_video_without_actions_has_none():
    assert active_classes(sample([(5, 0.0, 1.0), (2, 9.0, 9.5), (5, 3.0, 4.0)])) == [2, 5]
    assert active_classes(sample([])) == []
