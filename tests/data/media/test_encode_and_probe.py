"""Decoding by presentation order and re-encoding, on real files and on the awkward ones made here."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from nlnet.data.media.decode import decode_clip
from nlnet.data.media.encode import encode_frames, transcode
from nlnet.data.media.video import VideoError, count_frames, open_video, probe

MEDIA = (
    "arm_wrestling.mp4",
    "hevc.mp4",
    "non_zero_start.mp4",
    "short_32_frames.mp4",
    "six_fps.mp4",
    "two_video_streams.mp4",
    "wide_426x240.mp4",
    "with_audio.mp4",
    "xvid.avi",
)
EXPECTED = {  # frames, rate, width, height; of the larger stream where there are two
    "arm_wrestling.mp4": (280, 28.0, 340, 256),
    "hevc.mp4": (10, 10.0, 128, 128),
    "non_zero_start.mp4": (12, 30.0, 200, 112),
    "short_32_frames.mp4": (32, None, 340, 256),
    "six_fps.mp4": (57, 6.0, 340, 256),
    "two_video_streams.mp4": (390, 30000 / 1001, 480, 270),
    "wide_426x240.mp4": (300, 30000 / 1001, 426, 240),
    "with_audio.mp4": (168, 25.0, 294, 240),
    "xvid.avi": (164, 25.0, 320, 240),
}


def moving_square(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that all differ: a bright square walks over a ramp, and its brightness counts."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = np.linspace(20, 120, width, dtype=np.uint8)[None, None, :, None]
    for k in range(count):
        x, y = 2 * (k * 3 % (width // 2 - 6)), 2 * (k * 2 % (height // 2 - 6))
        frames[k, y : y + 12, x : x + 12] = 130 + k % 120
    return frames


def video_of(frames: np.ndarray, times: Sequence[int], base: Fraction, options: dict[str, str], kind: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=25, options={"threads": "1", "mbtree": "0", **options})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.time_base = base
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = time, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def all_frames(data: bytes) -> list[av.VideoFrame]:
    """A plain decode of everything, as the oracle."""
    with open_video(data) as (container, stream):
        return list(container.decode(stream))


def pixels(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray(format="rgb24", threads=1)


def relative_times(data: bytes) -> list[float]:
    with open_video(data) as (container, stream):
        assert stream.time_base is not None
        times = sorted(float(p.pts * stream.time_base) for p in container.demux(stream) if p.pts is not None)
    return [time - times[0] for time in times]


@pytest.mark.parametrize("name", MEDIA)
def test_real_files_decode_at_any_index_as_from_the_start(media: Path, name: str) -> None:
    data = (media / "video" / name).read_bytes()
    info, oracle = probe(data), all_frames(data)
    frames, fps, width, height = EXPECTED[name]
    assert (
        (info.frames, info.width, info.height)
        == (frames, width, height)
        == (len(oracle), *pixels(oracle[0]).shape[1::-1])
    )
    assert fps is None or info.fps == pytest.approx(fps, abs=1e-9)
    last = frames - 1
    for indices in ([0], [last], [last, 0, last // 2, 0], range(max(0, last - 9), frames), [last // 2, last // 2 + 1]):
        np.testing.assert_array_equal(decode_clip(data, indices), np.stack([pixels(oracle[k]) for k in indices]))
    with pytest.raises(IndexError, match=f"frame {frames} of a video of {frames} frames"):
        decode_clip(data, [0, frames])


@pytest.mark.parametrize("name", MEDIA)
def test_real_files_transcode(media: Path, name: str) -> None:
    path = media / "video" / name
    data = path.read_bytes()
    before, encoded = probe(data), transcode(path, short_side=112)
    after = probe(encoded)
    assert after.frames == before.frames == count_frames(encoded)
    assert after.fps == pytest.approx(before.fps, rel=1e-4)
    assert min(after.width, after.height) == 112
    assert after.width % 2 == after.height % 2 == 0
    assert after.width / after.height == pytest.approx(before.width / before.height, rel=0.02)
    if name != "xvid.avi":  # AVI stores no times to compare with
        np.testing.assert_allclose(relative_times(encoded), relative_times(data), atol=1e-4)
    with open_video(encoded) as (container, stream):
        assert [s.type for s in container.streams] == ["video"]
        assert (stream.codec_context.name, stream.start_time) == ("h264", 0)


def test_transcoding_is_deterministic_and_close(media: Path) -> None:
    path = media / "video" / "short_32_frames.mp4"
    data = path.read_bytes()
    encoded = transcode(path, gop=16)
    assert encoded == transcode(data, gop=16)
    original, copy = decode_clip(data, range(32)).astype(float), decode_clip(encoded, range(32)).astype(float)
    assert copy.shape == original.shape  # 256 is below the short side of 288: never enlarged
    psnr = 10 * np.log10(255**2 / np.mean((original - copy) ** 2))
    assert psnr > 34
    with open_video(encoded) as (container, stream):
        keys = [k for k, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
    assert max(np.diff([*keys, 32])) <= 16


@pytest.mark.parametrize(
    ("kind", "options", "base", "start"),
    [
        ("mp4", {"bf": "3", "g": "12"}, Fraction(1, 1000), 0),
        ("mp4", {"bf": "3", "g": "12", "x264-params": "open-gop=1"}, Fraction(1, 12800), 700),
        ("matroska", {"bf": "2", "g": "10"}, Fraction(1, 1000), 4000),
        ("mpegts", {"bf": "2", "g": "10"}, Fraction(1, 90000), 90000),
    ],
)
def test_irregular_times_b_frames_and_open_gops(kind: str, options: dict[str, str], base: Fraction, start: int) -> None:
    steps = np.random.default_rng(1).integers(20, 90, 60)
    times = [start + int(Fraction(int(t), 1000) / base) for t in np.cumsum(steps) - steps[0]]
    data = video_of(moving_square(60), times, base, options, kind)
    oracle = all_frames(data)
    assert probe(data).frames == len(oracle) == 60
    for first in range(60):
        np.testing.assert_array_equal(decode_clip(data, [first])[0], pixels(oracle[first]))
    if kind != "mpegts":
        expected = [float((time - times[0]) * base) for time in times]
        np.testing.assert_allclose(relative_times(transcode(data)), expected, atol=1e-3)
        assert probe(data).fps == pytest.approx(59 / expected[-1], rel=1e-3)


def test_a_segment_keeps_the_frames_within_it() -> None:
    data = video_of(moving_square(100), range(0, 100), Fraction(1, 25), {"g": "30"}, "mp4")
    cut = transcode(data, start=1.5, end=2.5)
    assert probe(cut).frames == 25  # frames 38 to 62: 1.52 s to 2.48 s
    assert relative_times(cut)[0] == 0
    original, copy = decode_clip(data, range(38, 63)).astype(float), decode_clip(cut, range(25)).astype(float)
    errors = [[np.abs(a - b).mean() for b in copy] for a in original]
    assert np.argmin(errors, axis=1).tolist() == list(range(25))
    assert probe(transcode(data, end=1.0)).frames == 25
    with pytest.raises(VideoError) as caught:
        transcode(data, start=9.0, end=12.0)
    assert caught.value.cause == "segment outside the video"


def test_a_stored_rotation_is_carried_out() -> None:
    data = bytearray(encode_frames(moving_square(4), 4.0))
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    encoded = transcode(bytes(data), crf=10)
    assert (probe(encoded).width, probe(encoded).height) == (48, 64)
    expected = np.rot90(moving_square(4), -1, axes=(1, 2)).astype(float)  # a quarter turn clockwise
    assert np.abs(decode_clip(encoded, range(4)).astype(float) - expected).mean() < 4


def test_encode_frames_keeps_frames_and_rate() -> None:
    frames = moving_square(9, 32, 32)
    data = encode_frames(frames, 29.97)
    assert data == encode_frames(frames, 29.97)
    info = probe(data)
    assert (info.frames, info.width, info.height) == (9, 32, 32)
    assert info.fps == pytest.approx(29.97, rel=1e-4)
    assert np.abs(decode_clip(data, range(9)).astype(float) - frames).mean() < 4
    for wrong in (frames[0], frames.astype(np.float32), frames[:, :31], frames[:0]):
        with pytest.raises(ValueError, match="encode_frames"):
            encode_frames(wrong, 8.0)


def test_indices_repeat_and_may_be_none_at_all() -> None:
    data = encode_frames(moving_square(6, 16, 16), 6.0)
    clip = decode_clip(data, np.array([5, 1, 5]))
    np.testing.assert_array_equal(clip, decode_clip(data, range(6))[[5, 1, 5]])
    assert decode_clip(data, []).shape == (0, 16, 16, 3)
    with pytest.raises(IndexError, match="frame -1"):
        decode_clip(data, [-1])


def sound_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "empty"),
        (b"<html>404 not found</html>" * 50, "undecodable"),
        (encode_frames(moving_square(9), 9.0)[:900], "undecodable"),
        (sound_only(), "no video stream"),
    ],
)
def test_what_is_no_video_is_named_by_cause(data: bytes, cause: str) -> None:
    for function in (probe, transcode, lambda bad: decode_clip(bad, [0])):
        with pytest.raises(VideoError) as caught:
            function(data)
        assert caught.value.cause == cause
