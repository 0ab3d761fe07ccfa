"""Clips at a rate (`data.fps`): frames, labels, views and predictions against plain arithmetic with the known times."""

import random
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.videos import make_video
from nlnet.config.compose import compose
from nlnet.config.resolve import load
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.clips import ClipBatches, ClipSettings, read_video
from nlnet.data.batches.sampling import ClipGeometry, clip_frames
from nlnet.data.batches.views import ViewBatches
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.video import probe
from nlnet.data.modules.clips import ClipDataModule
from nlnet.data.shards.manifest import Manifest, Sample, write_manifest
from nlnet.data.shards.writer import RawSample, write_shard
from nlnet.errors import UserError
from nlnet.models import build_model
from nlnet.prediction.timeline import Recognizer
from nlnet.prediction.videos import recognizer
from nlnet.runs.continuing.differences import differences

BASE = Fraction(1, 180)
# name -> ticks of 1/180 s, and the seconds of sound that the file begins with
VIDEOS: dict[str, tuple[list[int], int]] = {
    "even": ([6 * k for k in range(75)], 0),
    "slower": ([*range(0, 45 * 6, 6), *(270 + 36 * k for k in range(12))], 0),
    "faster": ([*(36 * k for k in range(12)), *range(432, 432 + 45 * 6, 6)], 0),
    "late": ([180 + tick for tick in (*range(0, 240, 6), *range(240, 600, 30))], 4),
    "one": ([0], 0),
    "short": ([0, 6, 12, 48], 0),
}
GEOMETRY = ClipGeometry(6, 3)
CLASSES = 12


def with_rate(fps: float | None) -> ClipGeometry:
    return ClipGeometry(GEOMETRY.frames, GEOMETRY.stride, fps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the videos as a data set of its own, each with intervals in all of its seconds."""
    folder, draw, raws = tmp_path_factory.mktemp("rates"), random.Random(0), []
    for name, (ticks, sound) in VIDEOS.items():
        video = make_video(ticks, BASE, sound=(0, sound) if sound else None)
        spans = [sorted((draw.uniform(0, 5), draw.uniform(0, 5))) for _ in range(CLASSES)]
        labels = tuple((k, round(a, 2), round(a + (b - a) / 4, 2)) for k, (a, b) in enumerate(spans))
        raws.append(RawSample(name, video, probe(video), labels))
    for split in ("train", "val"):
        shard, samples = write_shard(folder / f"rates-{split}-000000.tar", 0, raws)
        classes = tuple(f"c{k}" for k in range(CLASSES))
        write_manifest(folder, Manifest("rates", split, "multilabel", classes, {}, (shard,), tuple(samples)))
    return folder


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return Manifest.from_json((folder / "rates-train-manifest.json").read_text(), "")


class Plain:
    """A video at a rate, frame by frame, in exact numbers."""

    def __init__(self, sample: Sample, fps: float) -> None:
        self.times = [tick * BASE for tick in VIDEOS[sample.key][0]]
        count = len(self.times)
        mean = (self.times[-1] - self.times[0]) / (count - 1) if count > 1 else 1 / Fraction(sample.fps)
        self.end = self.times[-1] + mean
        self.seconds = [self.times[0]]
        while self.times[0] + (step := len(self.seconds) / Fraction(fps)) < self.end:
            self.seconds.append(self.times[0] + step)
        self.frames = [
            min(range(count), key=lambda k, wanted=s: (abs(self.times[k] - wanted), k)) for s in self.seconds
        ]

    def clip(self, start: int) -> list[int]:
        return [(start + k * GEOMETRY.stride) % len(self.frames) for k in range(GEOMETRY.frames)]

    def last_start(self) -> int:
        return max(len(self.frames) - GEOMETRY.frames * GEOMETRY.stride, 0)


def batches_of(manifest: Manifest, folder: Path, fps: float | None, train: bool) -> ClipBatches:
    settings = ClipSettings(with_rate(fps), 48, (48, 48), flip=False, train=train)
    return ClipBatches(manifest, str(folder), settings, RankSlice(len(VIDEOS)), seed=3, window=1)


@pytest.mark.parametrize("fps", [24, 60, 7.5])
def test_clips_and_labels_of_any_video_are_those_of_plain_arithmetic(
    manifest: Manifest, folder: Path, fps: float
) -> None:
    for train in (True, False):
        batches = batches_of(manifest, folder, fps, train)
        for epoch in range(3 if train else 1):
            batch = batches[epoch, 0]
            for row, index in enumerate(batch["indices"].tolist()):
                sample = manifest.samples[index]
                plain = Plain(sample, fps)
                draw = np.random.default_rng((3, epoch, zlib.crc32(sample.key.encode())))
                start = int(draw.integers(0, plain.last_start() + 1)) if train else plain.last_start() // 2
                clip = plain.clip(start)
                shown = [plain.frames[i] for i in clip]
                expected = decode_clip(read_video(manifest, str(folder), sample), shown)
                found = batch["clips"][row].numpy()
                assert any(np.array_equal(found, expected[:, :, x : x + 48]) for x in range(64 - 48 + 1)), sample.key
                first, last = plain.seconds[min(clip)], plain.seconds[max(clip)]
                classes = {
                    label
                    for label, a, b in sample.labels
                    if not train or (Fraction(str(a)) <= last and Fraction(str(b)) >= first)
                }
                assert set(batch["targets"][row].nonzero().flatten().tolist()) == classes, (sample.key, start)
        batches.close()


@pytest.mark.parametrize("rule", ["official", "slowfast", "mmaction2", "lfb"])
def test_views_are_placed_in_the_video_at_its_rate(manifest: Manifest, folder: Path, rule: str) -> None:
    batches = ViewBatches(manifest, str(folder), RankSlice(1), with_rate(24), clips=5, starts=rule)
    for t, sample in enumerate(manifest.samples):
        plain, batch = Plain(sample, 24), batches[0, t]
        # the rules themselves: tests/evaluation/test_views.py
        places = clip_frames(rule, GEOMETRY, len(plain.frames), 24.0, 5)
        shown = np.array(plain.frames)[places]
        expected = decode_clip(read_video(manifest, str(folder), sample), shown.flatten())
        found = batch["videos"][0][batch["frame_indices"][0].flatten()].numpy()
        np.testing.assert_array_equal(found, expected)
    batches.close()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_the_own_rate_changes_no_bit(manifest: Manifest, folder: Path) -> None:
    """A video of constant rate, and none of the others, which 30 frames a second would change."""
    [index] = [k for k, sample in enumerate(manifest.samples) if sample.key == "even"]
    assert manifest.samples[index].fps == 30.0
    for train in (True, False):
        pair = [batches_of(manifest, folder, fps, train) for fps in (None, 30)]
        for epoch in range(3):
            plain, rated = (batches[epoch, 0] for batches in pair)
            assert torch.equal(plain["indices"], rated["indices"])
            row = plain["indices"].tolist().index(index)
            assert all(same(plain[name][row], rated[name][row]) for name in ("clips", "flips", "targets"))
        for batches in pair:
            batches.close()
    views = [ViewBatches(manifest, str(folder), RankSlice(1), with_rate(fps), clips=3) for fps in (None, 30)]
    plain, rated = (batches[0, index] for batches in views)
    assert all(same(plain[name], rated[name]) for name in ("videos", "frame_indices", "targets"))
    for batches in views:
        batches.close()


class Brightness(nn.Module):
    """(B, T) the brightness of every frame."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip.mean((1, 3, 4))


@pytest.mark.parametrize("fps", [60, 10])
def test_predictions_at_a_rate_say_when_and_see_the_nearest_frames(
    manifest: Manifest, folder: Path, fps: float
) -> None:
    network = Recognizer(Brightness(), "multiclass", with_rate(fps), 48, None, torch.device("cpu"), 48)
    span = GEOMETRY.frames * GEOMETRY.stride
    for sample in manifest.samples:
        video, plain = read_video(manifest, str(folder), sample), Plain(sample, fps)
        moments = network.timeline(video, times=sample.times).moments
        starts = list(range(0, plain.last_start() + 1, span))
        starts += [plain.last_start()] if starts[-1] + span < len(plain.frames) else []
        assert len(moments) == len(starts)
        for moment, start in zip(moments, starts, strict=True):
            assert moment.start == pytest.approx(float(plain.seconds[start]), abs=1e-9)
            behind = start + span
            end = plain.seconds[behind] if behind < len(plain.frames) else plain.end
            assert moment.end == pytest.approx(float(end), abs=1e-9)
            frames = decode_clip(video, [plain.frames[i] for i in plain.clip(start)])[:, :, 8:56]
            means = (torch.from_numpy(frames).double() / 255 - 0.45).mean((1, 2, 3)) / 0.225
            np.testing.assert_allclose(moment.scores, means.softmax(0), atol=1e-5)
        spaced = [moment.start for moment in network.timeline(video, 0.25, sample.times).moments]
        possible = {float(plain.seconds[i]) for i in range(plain.last_start() + 1)}
        assert all(min(abs(start - second) for second in possible) < 1e-9 for start in spaced)


def module(folder: Path, **more: Any) -> ClipDataModule:
    return ClipDataModule(
        str(folder), "rates", batch_size=2, num_workers=0, frames=6, stride=3, size=48, scale=(48, 48), **more
    )


def test_a_video_is_short_at_the_rate_of_the_clips(manifest: Manifest, folder: Path) -> None:
    for fps in (24, 5):
        expected = sum(len(Plain(sample, fps).frames) < 18 for sample in manifest.samples)
        assert module(folder, fps=fps).short_videos() == expected
    assert module(folder).short_videos() == sum(len(ticks) < 18 for ticks, _ in VIDEOS.values())


@pytest.mark.parametrize("value", ["0", "-24", ".nan", "nan", "fast", "1e9", "[24]"])
def test_a_rate_that_is_none_gets_one_line(value: str) -> None:
    with pytest.raises(UserError, match=r"^data\.fps=.*: expected null or a number from 0.1 to 1,000$"):
        load(["experiment=charades_nl", "data.shards=x", f"data.fps={value}"])


def test_a_prediction_has_the_rate_of_the_training_unless_it_is_typed() -> None:
    model = {"name": "c2d_demo", "num_classes": 3}
    data = {"frames": 8, "stride": 2, "size": 32, "scale": [32, 32], "fps": 24}
    content = {"model": model, "state_dict": build_model(**model).state_dict(), "missing": [], "source": "caffe2"}
    found = []
    content["hyper_parameters"] = {"data": data, "task": {"kind": "multiclass"}}
    for typed in ([], ["fps=12.5"], ["fps=0"]):
        cfg = compose(["ckpt_path=x", "source=x", *typed], "predict")
        if typed == ["fps=0"]:
            with pytest.raises(UserError, match=r"^fps=0: expected null or a number from 0.1 to 1,000$"):
                recognizer(cfg, Path("x.pt"), content, torch.device("cpu"))
        else:
            found.append(recognizer(cfg, Path("x.pt"), content, torch.device("cpu"))[0].geometry.fps)
    assert found == [24, 12.5]


def test_a_run_that_goes_on_at_another_rate_says_so() -> None:
    cfg = load(["experiment=charades_nl_lfb", "data.shards=x"])
    settings = {"data": {**cfg.data, "fps": None}}
    assert "data.fps=24 (was None)" in differences({"hyper_parameters": settings}, cfg)
