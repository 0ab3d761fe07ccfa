"""Files that are not whole are refused alike, whatever the container; a stream has one size, whatever happens in it."""

import csv
from pathlib import Path

import numpy as np
import pytest

from helpers.preparing import settings
from helpers.videos import changing_video, make_video
from nlnet.data.media.damage import find_damage
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.encode import transcode
from nlnet.data.media.video import VideoError, probe
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest

TIMES = [40 * k for k in range(100)]
FAST = {"moov_size": "4000"}  # the index in front: what is left of a cut file can be opened
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
LIVE = {"live": "1"}  # clusters and segment of unknown length
WHOLE = {
    "mp4": make_video(TIMES, muxer=FAST, options={"g": "10"}),
    "mkv": make_video(TIMES, kind="matroska", options={"g": "10"}),
    "fragments.mp4": make_video(TIMES, muxer=FRAGMENTS, options={"g": "10"}),
    "live.mkv": make_video(TIMES, kind="matroska", muxer=LIVE, options={"g": "10"}),
    "webm": make_video(TIMES, kind="webm", codec="libvpx", options={"g": "10"}),
}
KEYS = [name.replace(".", "_") for name in WHOLE]


def cut_short(data: bytes) -> bytes:
    return data[: int(len(data) * 0.6)]


def with_hole(data: bytes) -> bytes:
    """Wide enough to lose whole pictures and what stands between them."""
    half = len(data) // 2
    return data[:half] + bytes(2000) + data[half + 2000 :]


@pytest.mark.parametrize("damage", [cut_short, with_hole])
def test_damage_is_the_same_in_all_containers(damage, tmp_path: Path) -> None:
    rows = ""
    for name, data in WHOLE.items():
        (tmp_path / f"{name.replace('.', '_')}.{name.rpartition('.')[2]}").write_bytes(damage(data))
        rows += f"{name.replace('.', '_')},c001 0 1\n"
    (tmp_path / "GOOD.mp4").write_bytes(WHOLE["mp4"])
    (tmp_path / "Charades_v1_train.csv").write_text(f"id,actions\n{rows}GOOD,c001 0 1\n")
    for encode in ("h264", "copy"):
        out = tmp_path / f"out-{encode}"
        [path] = prepare(settings(tmp_path, out, encode=encode), lambda _: None)
        assert [s.key for s in Manifest.from_json(Path(path).read_text(), path).samples] == ["GOOD"]
        with open(out / "failures.csv", newline="") as file:
            failures = {row["video"]: row["cause"] for row in csv.DictReader(file)}
        assert failures == dict.fromkeys(KEYS, "undecodable")


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_whole_and_the_place_of_damage_is_said(name: str, tmp_path: Path) -> None:
    data = WHOLE[name]
    assert find_damage(data) is None
    assert probe(data).frames == 100
    path = tmp_path / "video"
    path.write_bytes(cut_short(data))
    found = find_damage(path)
    assert found == find_damage(cut_short(data))
    assert found is not None
    assert found.position == len(cut_short(data))
    assert "ends after" in found.words
    assert find_damage(data + b"tail") is None or name == "live.mkv"


def test_a_segment_before_the_damage_can_be_cut() -> None:
    for name in ("mp4", "mkv", "live.mkv", "fragments.mp4"):
        data = cut_short(WHOLE[name])
        assert probe(transcode(data, start=0.2, end=0.4)).frames == 5, name
        for start, end in ((1.0, 4.0), (0.0, None)):
            with pytest.raises(VideoError, match=r"undecodable: it ends after [\d,]+ of"):
                transcode(data, start=start, end=end)


def test_other_bytes_are_no_damage() -> None:
    for data in (b"", b"RIFF" + bytes(100), bytes(100), b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x80" * 3):
        found = find_damage(data)
        assert found is None or found.position <= len(data)
    rng = np.random.default_rng(0)
    for name in ("mp4", "mkv"):
        for _ in range(200):  # neither an exception nor an endless loop
            changed = bytearray(WHOLE[name])
            for place in rng.integers(0, 400, 5):
                changed[place] = rng.integers(256)
            find_damage(bytes(changed))


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts", "flv"])
@pytest.mark.parametrize("sizes", [((64, 48), (32, 64)), ((32, 64), (64, 48)), ((64, 48), (128, 96), (64, 48))])
def test_a_stream_has_the_size_that_it_begins_with(kind: str, sizes: tuple[tuple[int, int], ...]) -> None:
    data = changing_video(kind, sizes)
    info, count = probe(data), 12 * len(sizes)
    assert (info.width, info.height, info.frames) == (*sizes[0], count)
    together = decode_clip(data, range(count))
    assert together.shape == (count, info.height, info.width, 3)
    for k in range(0, count, 5):
        np.testing.assert_array_equal(decode_clip(data, [k])[0], together[k])
        box = (10, 4, 30, 20)
        np.testing.assert_array_equal(decode_clip(data, [k], crop=box)[0], together[k, 10:40, 4:24])
    encoded = probe(transcode(data))
    assert (encoded.width, encoded.height, encoded.frames) == (*sizes[0], count)
