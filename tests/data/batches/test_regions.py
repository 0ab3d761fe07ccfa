"""Regions through a clip's own augmentation: pixels stay under their boxes, and what a crop cuts is cut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.clip_transforms import Crop, prepare_clips
from nlnet.data.batches.clips import ClipBatches, ClipSettings
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.media.encode import encode_frames
from nlnet.data.media.video import VideoInfo
from nlnet.data.regions.batches import RegionClipBatches, cropped_boxes, region_frames
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.regions.boxes import VideoRegions, unpack
from nlnet.data.shards.writer import RawSample, write_shard

FRAMES, HEIGHT, WIDTH, COUNT = 12, 72, 96, 12


def path_of(number: int, frame: int) -> tuple[int, int, int, int]:
    """Where the rectangle of a video is in a frame: left, top, right, bottom in pixels."""
    left, top = (7 * number + 5 * frame) % (WIDTH - 24), (11 * number + 3 * frame) % (HEIGHT - 20)
    return left, top, left + 24, top + 20


class Drawn:
    """The rectangles as regions: of every other frame, and none in the last four frames of each third video."""

    def of(self, key) -> VideoRegions:
        number = int(key.removeprefix("v"))
        empty = range(8, FRAMES) if number % 3 == 0 else ()
        sides = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
        return VideoRegions.of(
            {k: np.zeros((0, 4)) if k in empty else np.array([path_of(number, k)]) / sides for k in range(0, FRAMES, 2)}
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("drawn")
    raws = []
    for number in range(COUNT):
        frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 40, np.uint8)
        for k in range(FRAMES):
            left, top, right, bottom = path_of(number, k)
            frames[k, top:bottom, left:right] = 220
        labels = ((0, 0.0, 1.0),)
        raws.append(
            RawSample(f"v{number}", encode_frames(frames, 12.0), VideoInfo(FRAMES, 12.0, WIDTH, HEIGHT), labels)
        )
    shard, samples = write_shard(out / "x-train-000000.tar", 0, raws)
    return out, Manifest("x", "train", "multilabel", ("one",), {}, (shard,), tuple(samples))


def batches(folder: tuple[Path, Manifest], *, train: bool, per_frame: int = 2) -> RegionClipBatches:
    view = ClipSettings(ClipGeometry(6, 2), 64, (64, 90), True, train)
    place, manifest = folder
    arguments = (manifest, str(place), view, RankSlice(COUNT), 0, 1)
    return RegionClipBatches(*arguments, regions=Drawn(), frames=3, per_frame=per_frame)


@pytest.mark.parametrize("train", [True, False])
def test_a_drawn_rectangle_stays_under_its_box_through_the_whole_augmentation(folder, train: bool) -> None:
    flips = sizes = empty = 0
    for epoch in range(2 if train else 1):
        batch = batches(folder, train=train)[epoch, 0]
        inputs = prepare_clips(batch["clips"], batch["flips"], 64)
        flips += int(batch["flips"].sum())
        sizes += len({clip.shape[1] for clip in batch["clips"]})
        for clip, boxes in zip(inputs, batch["boxes"], strict=True):
            for frame, box in zip(clip[:, region_frames(6, 3)].transpose(0, 1), boxes[:, 0], strict=True):
                bright = frame.mean(0) > (130 / 255 - 0.45) / 0.225
                if not box.any():
                    empty += 1
                    continue
                rows, columns = torch.nonzero(bright.any(1)).flatten(), torch.nonzero(bright.any(0)).flatten()
                seen = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                torch.testing.assert_close(box * 64, seen.float(), atol=2.0, rtol=0)
        assert not batch["boxes"][:, :, 1].any()  # the second of two places
    assert empty > 0
    if train:
        assert 0 < flips < 2 * COUNT
        assert sizes > 2


def test_what_a_crop_cuts_is_cut_and_what_is_outside_is_left_out() -> None:
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.75, 0.75], [0.0, 0.0, 0.1, 0.1], [0.45, 0.0, 0.55, 1.0]])
    crop = Crop(top=20, left=100, side=80, flip=False)
    kept = cropped_boxes(boxes, 100, 200, crop)
    expected = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.375, 0.625, 0.6875], [0.0, 0.0, 0.125, 1.0]]
    np.testing.assert_allclose(kept, expected)
    mirrored = cropped_boxes(boxes, 100, 200, Crop(top=20, left=100, side=80, flip=True))
    np.testing.assert_allclose(mirrored[:, [0, 2]], 1 - kept[:, [2, 0]])
    np.testing.assert_allclose(mirrored[:, [1, 3]], kept[:, [1, 3]])
    assert cropped_boxes(np.zeros((0, 4)), 100, 200, crop).shape == (0, 4)


def test_a_frame_takes_the_regions_of_the_nearest_one() -> None:
    rng = np.random.default_rng(0)
    video = VideoRegions.of({k: rng.uniform(size=(k % 3, 4)) for k in (0, 4, 5, 11)})
    near = video.near(np.array([0, 1, 2, 3, 5, 7, 8, 9, 40]))
    expected = [0, 0, 0, 4, 5, 5, 5, 11, 11]
    for boxes, frame in zip(near, expected, strict=True):
        np.testing.assert_array_equal(boxes, video.near(np.array([frame]))[0])
        assert len(boxes) == frame % 3
    again = unpack(video.pack())
    np.testing.assert_array_equal(again.frames, video.frames)
    np.testing.assert_array_equal(again.counts, video.counts)
    np.testing.assert_allclose(again.boxes, video.boxes, atol=0.5 / 65535 + 1e-12)
    assert all(len(boxes) == 0 for boxes in VideoRegions.of({}).near(np.array([0, 3])))
    with pytest.raises(ValueError, match="coordinates"):
        unpack(video.pack()[:-8])


def test_regions_change_no_clip(folder) -> None:
    """A run with regions sees the clips of one without: same crops, same mirroring."""
    place, manifest = folder
    with_regions = batches(folder, train=True)
    plain = ClipBatches(manifest, str(place), with_regions.view, RankSlice(COUNT), 0, 1)
    one, other = with_regions[1, 0], plain[1, 0]
    assert set(one) - set(other) == {"boxes"}
    assert torch.equal(one["flips"], other["flips"])
    assert all(torch.equal(a, b) for a, b in zip(one["clips"], other["clips"], strict=True))


def test_a_sample_without_readable_regions_fails_alone(folder) -> None:
    class Broken(Drawn):
        def of(self, key):
            if key == "v3":
                raise ValueError("its regions are damaged")
            return super().of(key)

    made = batches(folder, train=False)
    made.regions = Broken()
    batch = made[0, 0]
    assert batch["failures"] == [("v3", "no regions")]
    assert batch["weights"].sum() == COUNT - 1
    assert not batch["boxes"][3].any()
