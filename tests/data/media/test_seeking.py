"""A frame asked for alone is that of a decoding from the start, bit for bit, whatever a file says of its keyframes."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from helpers.preparing import settings
from helpers.videos import all_marked, changing_video, make_video, plain_frames
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.encode import transcode
from nlnet.data.media.entries import entry_points, forgets
from nlnet.data.media.pyav import check_frames
from nlnet.data.media.video import VideoError, count_frames, open_video, packets_of, probe
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.writer import RawSample, write_shard
from nlnet.data.verify.check import verify
from nlnet.data.verify.report import Options

TIMES = [40 * k for k in range(32)]
REFRESH = {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}
NOT_SEEKABLE = ("refresh mp4", "refresh matroska", "all marked mpeg4", "qtrle")
CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "data"


def h264(kind: str, **options: str) -> Callable[[], bytes]:
    return lambda: make_video(TIMES, kind=kind, options={"g": "8", "sc_threshold": "0", **options})


def other(codec: str, kind: str, pix_fmt: str = "yuv420p", **options: str) -> Callable[[], bytes]:
    base = Fraction(1, 25)  # which all codecs can count in
    return lambda: make_video(range(32), base, kind, codec=codec, options={"g": "8", **options}, pix_fmt=pix_fmt)


MADE: dict[str, Callable[[], bytes]] = {
    **{f"closed {kind}": h264(kind, bf="3") for kind in ("mp4", "matroska", "mov", "mpegts", "flv", "avi")},
    **{f"open {kind}": h264(kind, bf="3", **{"x264-params": "open-gop=1"}) for kind in ("mp4", "matroska", "mpegts")},
    **{f"refresh {kind}": h264(kind, **REFRESH) for kind in ("mp4", "matroska", "mpegts")},
    **{f"pyramid {kind}": h264(kind, bf="6", refs="6", b_strategy="2") for kind in ("mp4", "matroska")},
    "one keyframe": h264("mp4", g="250"),
    "only keyframes": h264("mp4", g="1"),
    "fields": lambda: make_video(TIMES, options={"g": "8", "bf": "2", "x264-params": "tff=1"}, interlaced=True),
    "all marked h264": lambda: all_marked(h264("mp4", bf="2")()),
    "all marked hevc": lambda: all_marked(other("libx265", "mp4")()),
    "all marked mpeg4": lambda: all_marked(other("mpeg4", "mp4", bf="2")()),
    "parameters change": lambda: changing_video("mp4"),
    "parameters change once": lambda: changing_video("mp4", once=True),
    "parameters change once mkv": lambda: changing_video("matroska", once=True),
    "edited": lambda: make_video(
        [t - 500 for t in TIMES], options={"g": "8", "bf": "2"}, muxer={"avoid_negative_ts": "disabled"}
    ),
    "hevc": other("libx265", "mp4"),
    "hevc mkv": other("libx265", "matroska", **{"x265-params": "open-gop=1:bframes=4:pools=1:log-level=error"}),
    "hevc refresh": other("libx265", "mp4", **{"x265-params": "intra-refresh=1:pools=1:log-level=error"}),
    "mpeg4": other("mpeg4", "mp4", bf="2"),
    "mpeg4 mkv": other("mpeg4", "matroska"),
    "mpeg2 mkv": other("mpeg2video", "matroska", bf="2"),
    "vp8": other("libvpx", "webm", **{"auto-alt-ref": "1", "lag-in-frames": "8"}),
    "vp9": other("libvpx-vp9", "webm", **{"lag-in-frames": "8", "deadline": "realtime", "cpu-used": "8"}),
    "mjpeg": other("mjpeg", "mp4", "yuvj420p"),
    "prores": other("prores_ks", "mov", "yuv422p10le"),
    "ffv1": other("ffv1", "matroska"),
    "qtrle": other("qtrle", "mov", "rgb24"),
    "png": other("png", "mov", "rgb24"),
    "flv1": other("flv", "flv"),
    "wmv2": other("wmv2", "asf"),
    "msmpeg4": other("msmpeg4", "avi"),
}


def assert_alone_as_together(data: bytes, decoder: str = "pyav", step: int = 1) -> int:
    plain = plain_frames(data)
    together = decode_clip(data, range(len(plain)))
    assert probe(data).frames == len(plain) == count_frames(data)
    sides = (probe(data).height, probe(data).width)
    if len({(frame.width, frame.height) for frame in plain}) == 1 and not plain[0].interlaced_frame:
        for frame, image in zip(plain, together, strict=True):
            np.testing.assert_array_equal(image, frame.to_ndarray(format="rgb24", threads=1))
    for k in range(0, len(plain), step):
        alone = decode_clip(data, [k], decoder=decoder)
        assert alone.shape == (1, *sides, 3)
        np.testing.assert_array_equal(alone[0], together[k])
    few = range(1, len(plain), 7)
    np.testing.assert_array_equal(decode_clip(data, few, decoder=decoder), together[few.start :: few.step])
    return len(plain)


@pytest.mark.parametrize("name", MADE)
def test_every_frame_alone(name: str) -> None:
    data = MADE[name]()
    count = assert_alone_as_together(data)
    if name in NOT_SEEKABLE:
        with pytest.raises(VideoError, match="not seekable"):
            check_frames(data)
    else:
        assert check_frames(data) == count


@pytest.mark.parametrize("name", [name for name in MADE if not name.startswith("fields")])
def test_the_other_decoder_gives_the_same(name: str) -> None:
    pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    assert_alone_as_together(MADE[name](), "torchcodec", step=3)


@pytest.mark.full
def test_every_frame_of_real_files_alone(media: Path) -> None:
    for path in sorted((media / "video").iterdir()):
        data = path.read_bytes()
        assert assert_alone_as_together(data) == check_frames(data)


def test_a_good_file_is_decoded_from_the_keyframe_before() -> None:
    for name in ("closed mp4", "open matroska", "all marked h264", "hevc mkv"):
        with open_video(MADE[name]()) as (container, stream):
            packets = packets_of(container, stream)
            entries = [i for i, entry in enumerate(entry_points(packets, stream.codec_context)) if entry]
            assert len(entries) >= 4, name
            assert max(np.diff([*entries, 32])) <= 11, name
    with open_video(MADE["refresh mp4"]()) as (container, stream):
        packets = packets_of(container, stream)
        assert sum(packet.is_keyframe for packet in packets) > 1
        assert [i for i, entry in enumerate(entry_points(packets, stream.codec_context)) if entry] == [0]


def test_only_pictures_that_nothing_reaches_over_need_no_proof() -> None:
    proven = {"closed mp4": True, "hevc": False, "open mp4": False, "hevc mkv": False, "parameters change": True}
    proven |= {"closed matroska": True, "pyramid mp4": True, "mpeg4": False, "hevc idr": True}
    idr = other("libx265", "mp4", **{"x265-params": "open-gop=0:pools=1:log-level=error"})
    for name, right in proven.items():
        with open_video(MADE.get(name, idr)()) as (container, stream):
            packets = packets_of(container, stream)
            points = entry_points(packets, stream.codec_context)
            entries = [packet for packet, entry in zip(packets, points, strict=True) if entry][1:]
            assert entries, name
            assert all(forgets(packet, stream.codec_context) for packet in entries) == right, name


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts"])
def test_a_refresh_is_cut_at_any_second(kind: str) -> None:
    data = MADE[f"refresh {kind}"]()
    frames = decode_clip(data, range(32)).astype(float)
    for first, last in ((3, 9), (9, 14), (17, 31), (30, 31)):
        cut = transcode(data, start=first * 0.04 - 0.001, end=last * 0.04 + 0.001, crf=5)
        kept = decode_clip(cut, range(probe(cut).frames)).astype(float)
        assert len(kept) == last - first + 1
        errors = [[np.abs(a - b).mean() for a in frames] for b in kept]
        assert np.argmin(errors, axis=1).tolist() == list(range(first, last + 1))


def test_what_cannot_be_sought_is_not_copied_but_encoded(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, video in (("REFRESH", MADE["refresh mp4"]()), ("GOOD", MADE["closed mp4"]())):
        (source / f"{name}.mp4").write_bytes(video)
    (source / "Charades_v1_train.csv").write_text("id,actions\nREFRESH,c001 0 1\nGOOD,c001 0 1\n")
    manifests = {}
    for encode in ("copy", "h264"):
        [path] = prepare(settings(source, tmp_path / encode, encode=encode), lambda _: None)
        manifests[encode] = Manifest.from_json(Path(path).read_text(), path)
        assert verify(str(tmp_path / encode), Options(decode=1.0)).findings == []
    assert [s.key for s in manifests["copy"].samples] == ["GOOD"]
    assert "train,REFRESH,not seekable," in (tmp_path / "copy" / "failures.csv").read_text()
    assert sorted(s.key for s in manifests["h264"].samples) == ["GOOD", "REFRESH"]


def test_verify_names_what_was_copied_earlier(tmp_path: Path) -> None:
    data = MADE["refresh mp4"]()
    shard, samples = write_shard(tmp_path / "x-train-000000.tar", 0, [RawSample("R", data, probe(data), ())])
    manifest = Manifest("x", "train", "multilabel", ("a",), {}, (shard,), tuple(samples))
    (tmp_path / "x-train-manifest.json").write_text(manifest.to_json())
    [finding] = verify(str(tmp_path), Options(decode=1.0)).findings
    assert (finding.where, finding.cause) == ("train/R", "not seekable")


def test_a_recording_with_intra_refresh() -> None:
    path = CASES / "intra_refresh" / "intra_refresh.mp4"
    if not path.is_file():
        pytest.skip(f"no {path}")
    data = path.read_bytes()
    assert assert_alone_as_together(data, step=8) == 100
    frames = decode_clip(data, range(40, 60)).astype(float)
    for start, end, count in ((2.0, 3.5, 38), (1.76, 2.6, 21), (2.08, 3.0, 23)):
        cut = transcode(path, start=start, end=end)
        assert probe(cut).frames == count
        errors = np.abs(frames - decode_clip(cut, [0])).mean(axis=(1, 2, 3))
        assert 40 + errors.argmin() == round(start * 25)
