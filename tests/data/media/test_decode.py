"""The frames at given places: the same from both decoders, cut or whole, re-encoded or copied, and no more work."""

import io
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers.preparing import settings
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.encode import encode_frames, transcode
from nlnet.data.media.pyav import packet_ranges
from nlnet.data.media.video import VideoError, open_video, packets_of, probe, quarter_turns
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.tar import sample_members
from nlnet.errors import UserError

NAMES = (
    "arm_wrestling", "hevc", "non_zero_start", "short_32_frames", "six_fps", "two_video_streams", "wide_426x240",
    "with_audio", "xvid",
)  # fmt: skip


def oracle(data: bytes) -> np.ndarray:
    """All frames of a plain decode from the start, upright, as RGB."""
    with open_video(data) as (container, stream):
        return np.stack(
            [np.rot90(f.to_ndarray(format="rgb24", threads=1), quarter_turns(f)) for f in container.decode(stream)]
        )


# torchcodec needs the FFmpeg libraries of the system: where they are missing its tests fail, they are not skipped.
BOTH_DECODERS = pytest.mark.parametrize("decoder", ["pyav", pytest.param("torchcodec", marks=pytest.mark.programs)])

SLOW = ("arm_wrestling", "two_video_streams", "wide_426x240")  # as they are: larger than prepared


@pytest.fixture(scope="module")
def prepared(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """All real videos as `prepare` stores them, by `encode`."""
    return cache(lambda encode: store(media, tmp_path_factory.mktemp(encode), encode))


def store(media: Path, folder: Path, encode: str) -> dict[str, bytes]:
    rows = "".join(f"{name},c001 0 1,1\n" for name in NAMES)
    (folder / "Charades_v1_train.csv").write_text("id,actions,length\n" + rows)
    chosen: dict[str, Any] = {"videos": media / "video", "encode": encode, "short_side": 112}
    [path] = prepare(settings(folder, folder / "out", **chosen), lambda _: None)
    manifest = Manifest.from_json(Path(path).read_text(), path)
    videos = {}
    for sample in manifest.samples:
        tar = (folder / "out" / manifest.shards[sample.shard].name).read_bytes()
        [video] = sample_members(tar[sample.offset : sample.offset + sample.length], ["mp4"]).values()
        info = probe(video)
        assert (info.frames, info.width, info.height) == (sample.frames, sample.width, sample.height)
        videos[sample.key] = video
    assert sorted(videos) == sorted(NAMES)
    return videos


@BOTH_DECODERS
@pytest.mark.parametrize(
    ("encode", "name"),
    [
        pytest.param(encode, name, marks=[pytest.mark.full] if encode == "copy" and name in SLOW else [])
        for encode in ("h264", "copy")
        for name in NAMES
    ],
)
def test_every_frame_of_every_real_video(
    prepared: Callable[[str], dict[str, bytes]], decoder: str, encode: str, name: str
) -> None:
    data = prepared(encode)[name]
    expected = oracle(data)
    count, height, width = expected.shape[:3]
    rng = np.random.default_rng(len(data))
    np.testing.assert_array_equal(decode_clip(data, range(count), decoder=decoder), expected)
    indices = rng.integers(0, count, 8)
    rows, columns = rng.integers(1, (height + 1, width + 1))
    top, left = rng.integers(0, (height - rows + 1, width - columns + 1))
    clip = decode_clip(data, indices, crop=(top, left, rows, columns), decoder=decoder)
    np.testing.assert_array_equal(clip, expected[indices, top : top + rows, left : left + columns])
    with pytest.raises(IndexError, match=f"frame {count} of a video of {count} frames"):
        decode_clip(data, [0, count], decoder=decoder)


def pattern(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth pictures without any symmetry, all different."""
    y, x = np.mgrid[0:height, 0:width]
    frames = np.empty((count, height, width, 3), np.uint8)
    for k in range(count):
        red, green = 40 + 2 * y + k, 30 + 2 * x
        frames[k] = np.stack([red, green, np.full_like(red, 100 + k)], axis=-1).clip(0, 255)
        frames[k, 4:12, 4 + k % 40 : 16 + k % 40] = 250
    return frames


def turned(data: bytes, quarters: int) -> bytes:
    """The same MP4 with a note that the picture is to be turned counter-clockwise."""
    cos, sin = ((1, 0), (0, -1), (-1, 0), (0, 1))[quarters]
    changed = bytearray(data)
    matrix = changed.index(b"tkhd") + 4 + 40
    one = 1 << 16
    changed[matrix : matrix + 36] = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    return bytes(changed)


@BOTH_DECODERS
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_rotated_videos_are_upright(decoder: str, quarters: int) -> None:
    plain = encode_frames(pattern(6), 6.0)
    data = turned(plain, quarters)
    expected = np.rot90(decode_clip(plain, range(6)), quarters, axes=(1, 2))
    info = probe(data)
    assert (info.height, info.width) == expected.shape[1:3]
    np.testing.assert_array_equal(decode_clip(data, range(6), decoder=decoder), expected)
    clip = decode_clip(data, [5, 2], crop=(3, 9, 20, 31), decoder=decoder)
    np.testing.assert_array_equal(clip, expected[[5, 2], 3:23, 9:40])


@BOTH_DECODERS
@pytest.mark.parametrize("crop", [(-1, 0, 8, 8), (0, 0, 49, 8), (0, 60, 8, 5), (0, 0, 0, 8)])
def test_a_crop_outside_the_picture_is_named(decoder: str, crop: tuple[int, int, int, int]) -> None:
    data = encode_frames(pattern(2), 2.0)
    with pytest.raises(VideoError) as caught:
        decode_clip(data, [0], crop=crop, decoder=decoder)
    assert caught.value.cause == "wrong size"


def encoded(codec: str, count: int, options: dict[str, str], pix_fmt: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        (stream.height, stream.width), stream.pix_fmt = size, pix_fmt
        for k, image in enumerate(pattern(count, *size)):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("codec", "options", "pix_fmt", "size"),
    [
        ("libx264", {"g": "10", "bf": "3", "mbtree": "0"}, "yuv444p", (37, 51)),
        ("libx264", {"g": "10", "bf": "3", "mbtree": "0", "x264-params": "open-gop=1"}, "yuv420p", (48, 64)),
        ("libx264", {"g": "10", "bf": "3", "b-pyramid": "strict", "mbtree": "0"}, "yuvj420p", (48, 64)),
        ("libx265", {"g": "10", "x265-params": "log-level=none:pools=1:open-gop=1:temporal-layers=3"}, "yuv420p",
         (48, 64)),
        ("mpeg4", {"g": "10", "bf": "2"}, "yuv420p", (48, 64)),
    ],
)  # fmt: skip
def test_other_codecs_and_pixels(codec: str, options: dict[str, str], pix_fmt: str, size: tuple[int, int]) -> None:
    data = encoded(codec, 45, options, pix_fmt, size)
    expected = oracle(data)
    for indices in ([0], [44], [3, 41], [12, 13, 29], [38, 21, 38], range(0, 45, 8)):
        np.testing.assert_array_equal(decode_clip(data, indices), expected[list(indices)])
        clip = decode_clip(data, indices, crop=(5, 7, 21, 33))
        np.testing.assert_array_equal(clip, expected[list(indices), 5:26, 7:40])


def test_only_what_is_needed_is_decoded() -> None:
    frames = pattern(1).repeat(96, axis=0)
    for k in range(96):
        frames[k, 20:32, 8 + k // 3 : 20 + k // 3] = 10
    data = transcode(encode_frames(frames, 25.0), gop=32)
    with open_video(data) as (container, stream):
        packets = packets_of(container, stream)
        times = sorted(p.pts or 0 for p in packets)
        runs = packet_ranges(packets, [times[k] for k in (40, 44, 95)])
        assert [begin for begin, _ in runs] == [32, 64]  # nothing of the first 32 frames
        assert runs[0][1] <= 32 + 14
        assert _decoded(packets[32:], stream) <= 20  # of 64: one P in four and the keyframes


def _decoded(packets: list[Any], stream: Any) -> int:
    """How many pictures come out when only those are decoded that others refer to."""
    stream.codec_context.skip_frame = "NONREF"
    frames = [frame for packet in packets for frame in stream.codec_context.decode(packet)]
    return len([*frames, *stream.codec_context.decode(None)])


def test_a_decoder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_frames(pattern(2), 2.0)
    with pytest.raises(ValueError, match="decoder 'opencv' is none of pyav, torchcodec"):
        decode_clip(data, [0], decoder="opencv")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UserError, match=r"decoder=torchcodec: it cannot be loaded .*install nlnet\[torchcodec\]"):
        decode_clip(data, [0], decoder="torchcodec")
