"""Seconds are where the frames are, in labels, cuts and predictions: variable rates, late starts, edit lists."""

import json
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.preparing import settings
from helpers.videos import MS, make_video, plain_times
from nlnet.data.batches.clips import read_video
from nlnet.data.batches.sampling import ClipGeometry, active_classes, frame_indices
from nlnet.data.media.video import probe
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.data.verify.check import verify
from nlnet.data.verify.report import Options
from nlnet.prediction.timeline import Recognizer

FRAMES = 40
EVEN = [40 * k for k in range(FRAMES)]
UNEVEN = [int(t) for t in np.cumsum(np.random.default_rng(0).integers(15, 120, FRAMES))]
UNEVEN = [t - UNEVEN[0] for t in UNEVEN]
SLOWER = [round(k * 1000 / 30) for k in range(20)] + [667 + 200 * k for k in range(20)]
NTSC = [round(k * 1001 / 30) for k in range(FRAMES)]
FINE = [int(t) for t in np.cumsum(np.random.default_rng(1).integers(1000, 9000, FRAMES))]
UNTOUCHED = {"avoid_negative_ts": "disabled"}
B = {"bf": "2", "g": "12"}
CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "data"


def late(times: list[int], by: int) -> list[int]:
    return [time + by for time in times]


# name -> (suffix, video)
MADE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "vfr": ("mp4", lambda: make_video(UNEVEN, options=B)),
    "slower": ("mp4", lambda: make_video(SLOWER)),
    "fine": ("mp4", lambda: make_video(FINE, Fraction(1, 90000))),
    "vfr_mkv": ("mkv", lambda: make_video(UNEVEN, kind="matroska", options=B)),
    "vfr_webm": ("webm", lambda: make_video(UNEVEN, kind="webm", codec="libvpx")),
    "vfr_ts": ("ts", lambda: make_video(UNEVEN, kind="mpegts", options=B)),
    "vfr_flv": ("flv", lambda: make_video(UNEVEN, kind="flv")),
    "ntsc_mkv": ("mkv", lambda: make_video(NTSC, kind="matroska")),
    "ntsc": ("mp4", lambda: make_video(NTSC)),
    "late": ("mp4", lambda: make_video(late(EVEN, 1500), sound=(0, 4))),
    "late_mkv": ("mkv", lambda: make_video(late(EVEN, 1500), kind="matroska", sound=(0, 4), options=B)),
    "late_ts": ("ts", lambda: make_video(late(EVEN, 1500), kind="mpegts", sound=(0, 4))),
    "late_mov": ("mov", lambda: make_video(late(EVEN, 1500), kind="mov", sound=(0, 4))),
    "late_flv": ("flv", lambda: make_video(late(EVEN, 1500), kind="flv", sound=(0, 4))),
    "sound_late": ("mp4", lambda: make_video(EVEN, sound=(1, 4))),
    "starts_at_ten": ("mp4", lambda: make_video(late(EVEN, 10000), sound=(10.25, 12))),
    "starts_at_ten_mkv": ("mkv", lambda: make_video(late(UNEVEN, 10000), kind="matroska")),
    "negative": ("mp4", lambda: make_video(late(EVEN, -300), muxer=UNTOUCHED, options=B)),
    "negative_vfr": ("mp4", lambda: make_video(late(UNEVEN, -300), muxer=UNTOUCHED, options=B)),
    "vfr_late": ("mp4", lambda: make_video(late(UNEVEN, 777), sound=(0, 4), options=B)),
    "edited_late": ("mov", lambda: make_video(late(UNEVEN, 500), kind="mov", sound=(-0.5, 3), muxer=UNTOUCHED)),
    "even": ("mp4", lambda: make_video(EVEN)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, annotated as Charades with two intervals each."""
    folder = tmp_path_factory.mktemp("made")
    rows, rng = "id,actions\n", np.random.default_rng(0)
    for name, (suffix, make) in MADE.items():
        (folder / f"{name}.{suffix}").write_bytes(make())
        a, b, c = np.sort(rng.uniform(0, 3, 3))
        rows += f"{name},c001 0.00 {a:.2f};c002 {b:.2f} {c:.2f};c003 {a:.2f} {b:.2f}\n"
    (folder / "Charades_v1_train.csv").write_text(rows)
    return folder


@pytest.fixture(scope="module")
def oracle(made: Path) -> dict[str, list[Fraction]]:
    return {name: plain_times((made / f"{name}.{suffix}").read_bytes()) for name, (suffix, _) in MADE.items()}


def prepared(source: Path, out: Path, **more: object) -> Manifest:
    [path] = prepare(settings(source, out, **more), lambda _: None)
    return Manifest.from_json(Path(path).read_text(), path)


@pytest.mark.parametrize("encode", ["h264", "copy"])
def test_labels_hold_where_the_frames_are(
    made: Path, oracle: dict[str, list[Fraction]], tmp_path: Path, encode: str
) -> None:
    manifest = prepared(made, tmp_path / "out", encode=encode)
    assert {sample.key for sample in manifest.samples} == set(MADE)
    geometry = ClipGeometry(4, 3)
    for sample in manifest.samples:
        times = oracle[sample.key]
        assert sample.frames == len(times)
        np.testing.assert_allclose(sample.times.seconds(range(sample.frames)), [float(t) for t in times], atol=1e-9)
        for start in range(sample.frames - geometry.span + 1):
            indices = frame_indices(geometry, sample.frames, start)
            first, last = (round(times[k], 9) for k in (indices.min(), indices.max()))
            right = [c for c, a, b in sorted(sample.labels) if Fraction(str(a)) <= last and Fraction(str(b)) >= first]
            assert active_classes(sample, indices) == right, (sample.key, start)
    even = next(sample for sample in manifest.samples if sample.key == "even")
    assert (even.table, even.fps) == ((), 25.0)
    assert all(len(s.table) == 3 for s in manifest.samples if "ntsc" in s.key)
    assert verify(str(tmp_path / "out"), Options(decode=1.0, duplicates=True)).findings == []


class Flat(nn.Module):
    """Scores that are none: only when they hold is looked at."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip.new_zeros(len(clip), 2)


def test_predictions_say_when(made: Path, oracle: dict[str, list[Fraction]], tmp_path: Path) -> None:
    network = Recognizer(Flat(), "multiclass", ClipGeometry(4, 2), 32, None, torch.device("cpu"), 32)
    manifest = prepared(made, tmp_path / "out")
    for sample in manifest.samples:
        times = [float(time) for time in oracle[sample.key]]
        original = (made / f"{sample.key}.{MADE[sample.key][0]}").read_bytes()
        shard = read_video(manifest, str(tmp_path / "out"), sample)
        assert probe(shard).times.seconds(0) == 0  # what was before its first frame is not in the file
        for video, known in ((original, None), (shard, sample.times)):
            moments = network.timeline(video, times=known).moments
            firsts = [*range(0, len(times) - 7, 8), *([len(times) - 8] if len(times) % 8 else [])]
            np.testing.assert_allclose([m.start for m in moments], [times[k] for k in firsts], atol=1e-9)
            np.testing.assert_allclose([m.end for m in moments[:-1]], [times[k + 8] for k in firsts[:-1]], atol=1e-9)
            assert moments[-1].end == pytest.approx(times[-1] + 1 / sample.fps)
            starts = np.array([m.start for m in network.timeline(video, 0.3, known).moments])
            wanted = np.arange(times[0], times[-8] + 1e-9, 0.3)
            nearest = [np.abs(np.array(times) - w).min() for w in wanted]
            np.testing.assert_allclose([np.abs(starts - w).min() for w in wanted], nearest, atol=1e-9)


def test_a_segment_is_cut_by_the_clock_of_the_file(
    made: Path, oracle: dict[str, list[Fraction]], tmp_path: Path
) -> None:
    rows = "label,youtube_id,time_start,time_end,split\n"
    rows += "".join(f"a,{name},0.5,1.9,train\n" for name in MADE)
    (tmp_path / "kinetics.csv").write_text(rows)
    out = tmp_path / "out"
    cut = settings(tmp_path / "kinetics.csv", out, "kinetics", videos=made)
    manifest = Manifest.from_json(Path(prepare(cut, lambda _: None)[0]).read_text(), "")
    for sample in manifest.samples:
        times = [float(time) for time in oracle[sample.key]]
        whole = probe(made / f"{sample.key}.{MADE[sample.key][0]}").duration <= 1.4 + 1  # too short to be cut
        kept = times if whole else [time for time in times if 0.5 <= round(time, 9) < 1.9]
        assert sample.frames == len(kept), sample.key
        begin = 0 if not whole else times[0]
        expected = np.array(kept) - kept[0] + begin
        np.testing.assert_allclose(sample.times.seconds(range(len(kept))), expected, atol=1e-9)
    assert len(manifest.samples) == len(MADE)


@pytest.mark.programs
def test_the_times_are_those_of_ffprobe(made: Path, oracle: dict[str, list[Fraction]]) -> None:
    assert shutil.which("ffprobe")
    for name, (suffix, _) in MADE.items():
        command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "json"]
        command += ["-show_entries", "frame=best_effort_timestamp_time:format=start_time"]
        told = json.loads(subprocess.check_output([*command, str(made / f"{name}.{suffix}")]))
        zero = Fraction(told["format"]["start_time"])
        times = [float(Fraction(frame["best_effort_timestamp_time"]) - zero) for frame in told["frames"]]
        video = probe(made / f"{name}.{suffix}")
        np.testing.assert_allclose(times, video.times.seconds(range(video.frames)), atol=2e-6, err_msg=name)
        np.testing.assert_allclose(times, [float(time) for time in oracle[name]], atol=2e-6, err_msg=name)


def test_the_frames_of_a_slower_end_are_no_earlier(tmp_path: Path) -> None:
    """150 frames at 30 a second, then 25 at 5: clip 100 is before the second label, at a mean rate it is behind."""
    times = [*range(0, 150 * 6, 6), *(900 + 36 * k for k in range(25))]
    (tmp_path / "V.mp4").write_bytes(make_video(times, Fraction(1, 180)))
    (tmp_path / "Charades_v1_train.csv").write_text("id,actions\nV,c010 0.00 4.90;c020 5.00 9.80\n")
    [sample] = prepared(tmp_path, tmp_path / "out").samples
    assert active_classes(sample, frame_indices(ClipGeometry(8, 4), sample.frames, 100)) == [10]
    assert active_classes(sample, frame_indices(ClipGeometry(8, 4), sample.frames, 143)) == [10, 20]
    assert sample.times.seconds([100, 149, 150, 174]).tolist() == [100 / 30, 149 / 30, 5.0, 9.8]
    assert Fraction(times[-1], 180) == MS * 9800


def test_a_recording_whose_rate_falls(tmp_path: Path) -> None:
    """The same of a real encoder's file, and of a copy at a constant rate: no clip has another interval's labels."""
    path = CASES / "vfr_labels" / "vfr.mp4"
    if not path.is_file():
        pytest.skip(f"no {path}")
    shutil.copy(path, tmp_path / "VFRVF.mp4")
    shutil.copy(path.with_name("Charades_v1_train.csv"), tmp_path)
    times, geometry = plain_times(path.read_bytes()), ClipGeometry(8, 4)
    [sample] = prepared(tmp_path, tmp_path / "out").samples
    assert sample.frames == len(times) == 175
    for start in range(sample.frames - geometry.span + 1):
        indices = frame_indices(geometry, sample.frames, start)
        first, last = times[indices.min()], times[indices.max()]
        right = [c for c, a, b in ((10, 0, Fraction("4.9")), (20, 5, Fraction("9.8"))) if a <= last and b >= first]
        assert active_classes(sample, indices) == right, start
    network = Recognizer(Flat(), "multiclass", ClipGeometry(8, 1), 32, None, torch.device("cpu"), 32)
    moment = network.timeline(path.read_bytes()).moments[10]
    assert (moment.start, moment.end) == pytest.approx((80 / 30, 88 / 30))
