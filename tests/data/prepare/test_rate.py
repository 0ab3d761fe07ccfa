"""`prepare fps=`: frame k at k / fps, and it is the one of the source that is nearest; cuts and labels stay right."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.preparing import charades, settings
from helpers.videos import make_video, plain_frames
from nlnet.data.batches.sampling import ClipGeometry, active_classes
from nlnet.data.media.encode import transcode
from nlnet.data.media.times import Times
from nlnet.data.media.video import probe
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.errors import UserError
from nlnet.limits import TooLarge
from nlnet.prediction.timeline import Recognizer

BASE = Fraction(1, 180)
SLOWER = [*range(0, 30 * 6, 6), *(180 + 36 * k for k in range(8))]  # 1 s of 30 frames a second, 1.6 s of 5
MADE: dict[str, dict[str, Any]] = {
    "slower.mp4": {"times": SLOWER},
    "even.mp4": {"times": [6 * k for k in range(40)]},
    "late.mp4": {"times": [180 + tick for tick in SLOWER], "sound": (0, 4)},
    "groups.mkv": {"times": SLOWER, "kind": "matroska", "options": {"bf": "2", "g": "12"}},
    "transport.ts": {"times": [180 + tick for tick in SLOWER], "kind": "mpegts", "sound": (0, 4)},  # stores no times
    "one.mp4": {"times": [0]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name, video in MADE.items():
        (folder / name).write_bytes(make_video(base=BASE, **video))
    return folder


def seconds(path: Path) -> list[Fraction]:
    """As `probe` says them (tests/data/media/test_times.py): Matroska rounds to milliseconds."""
    times = probe(path).times
    return [Fraction(float(second)).limit_denominator(10**6) for second in times.seconds(np.arange(times.frames))]


def nearest(times: list[Fraction], fps: Fraction, length: Fraction) -> list[int]:
    """The frame of every k / fps before `length`, from the first frame on."""
    wanted = [times[0] + Fraction(k) / fps for k in range(10_000) if not k or Fraction(k) / fps < length]
    return [min(range(len(times)), key=lambda i, second=second: (abs(times[i] - second), i)) for second in wanted]


def numbers(encoded: bytes, source: Path) -> list[int]:
    """Which frame of the source each of the encoded frames shows."""
    pictures = np.stack([frame.to_ndarray(format="gray").astype(int) for frame in plain_frames(source.read_bytes())])
    shown = (frame.to_ndarray(format="gray") for frame in plain_frames(encoded))
    return [int(np.abs(pictures - picture).mean((1, 2)).argmin()) for picture in shown]


@pytest.mark.parametrize(("name", "fps"), [*((name, 24) for name in MADE), ("slower.mp4", 29.97), ("late.mp4", 60)])
def test_frames_are_at_a_constant_rate_and_the_nearest(made: Path, name: str, fps: float) -> None:
    rate, times = Fraction(fps).limit_denominator(1001), seconds(made / name)
    length = Fraction(len(times)) / Fraction(probe(made / name).fps).limit_denominator(10**6)
    expected = nearest(times, rate, length)
    encoded = transcode(made / name, crf=5, fps=fps)
    assert probe(encoded).times == Times(len(expected), float(rate))
    assert numbers(encoded, made / name) == expected
    assert transcode(made / name, crf=5, fps=fps) == encoded


@pytest.mark.parametrize("name", ["slower.mp4", "late.mp4", "transport.ts"])
def test_a_cut_begins_with_its_first_frame_and_has_none_from_its_end_on(made: Path, name: str) -> None:
    times, start, end = seconds(made / name), 0.6, 2.3
    first = next(i for i, second in enumerate(times) if second >= Fraction("0.6"))
    kept = [second for second in times if Fraction("0.6") <= second < Fraction("2.3")]
    length = min(kept[-1] - kept[0] + (kept[-1] - kept[0]) / (len(kept) - 1), Fraction("2.3") - kept[0])
    encoded = transcode(made / name, crf=5, fps=24, start=start, end=end)
    expected = [first + i for i in nearest(kept, Fraction(24), length)]
    assert probe(encoded).times == Times(len(expected), 24.0)
    assert numbers(encoded, made / name) == expected


def test_a_gap_of_days_does_not_become_that_many_frames() -> None:
    video = make_video([0, 100_000], Fraction(1))
    network = Recognizer(torch.nn.Identity(), "multiclass", ClipGeometry(8, 8, 24), 48, None, torch.device("cpu"), 48)
    for refused in (lambda: transcode(video, fps=24), lambda: network.timeline(video)):
        with pytest.raises(TooLarge, match=r"^at fps=24: a video of 4,800,000 frames"):
            refused()


def test_a_rate_is_the_same_in_shards_and_in_clips(made: Path, tmp_path: Path) -> None:
    """Times and labels of the clips of shards prepared at a rate are those of others, of which clips have the rate."""
    names = ("slower", "late", "one")
    rows = "".join(f"{name},c010 0.00 1.25;c020 1.30 2.00\n" for name in names)
    (tmp_path / "Charades_v1_train.csv").write_text(f"id,actions\n{rows}")
    manifests = []
    for fps in (24, None):
        [path] = prepare(settings(tmp_path, tmp_path / f"{fps}", videos=made, fps=fps), lambda _: None)
        manifests.append({sample.key: sample for sample in Manifest.from_json(Path(path).read_text(), path).samples})
    at_rate, as_stored = manifests
    for name in names:
        sample, video = at_rate[name], as_stored[name].times.resampled(24)
        frames, begin = np.arange(sample.frames), float(seconds(made / f"{name}.mp4")[0])
        assert (sample.fps, sample.frames, sample.labels) == (24.0, video.times.frames, as_stored[name].labels)
        np.testing.assert_allclose(sample.times.seconds(frames), begin + frames / 24, atol=1e-12)
        np.testing.assert_allclose(video.times.seconds(frames), begin + frames / 24, atol=1e-12)
        for start in range(max(1, sample.frames - 8)):
            clip = frames[start : start + 8]
            assert active_classes(sample, clip) == active_classes(as_stored[name], clip, video.times)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "fast", True, 1e6])
def test_a_rate_that_is_none_gets_one_line(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^fps=.*: expected a number from 0.1 to 1,000, or null$"):
        settings(tmp_path, tmp_path / "out", fps=value)


def test_files_as_they_are_have_the_rate_that_they_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^fps=24: encode=copy stores the files as they are; set encode=h264 or fps="):
        settings(tmp_path, tmp_path / "out", fps=24, encode="copy")


def test_shards_of_another_rate_are_not_mixed(tmp_path: Path) -> None:
    source, out = charades(tmp_path / "source", 2), tmp_path / "out"
    prepare(settings(source, out), lambda _: None)
    assert "fps" not in json.loads((out / ".parts" / "plan.json").read_text())["settings"]  # as earlier versions made
    with pytest.raises(UserError, match=r"made differently \(fps=None then, 24 now\)"):
        prepare(settings(source, out, fps=24), lambda _: None)
