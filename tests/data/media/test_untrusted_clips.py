"""Videos from strangers: damaged ones are refused or decoded, absurd claims cost nothing, nothing else is opened."""

import time
from pathlib import Path

import numpy as np
import pytest

from helpers.damage import TABLES, boxes, damaged, one_picture, picture_claiming
from helpers.processes import run_process
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.encode import encode_frames, transcode
from nlnet.data.media.limits import excess
from nlnet.data.media.video import VideoError, count_frames, open_video, probe
from nlnet.limits import FRAMES

LIMIT_S, LIMIT_BYTES = 5.0, 600 << 20  # processor seconds and memory for one damaged video of a hundred kilobytes


def small_video() -> bytes:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (24, 8, 12, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    return transcode(encode_frames(frames, 24.0), gop=12)


class Cost:
    """Processor seconds and the growth of the peak of resident memory in bytes, since it was made."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
        self.begin, self.before = time.process_time(), self._peak()

    @property
    def seconds(self) -> float:
        return time.process_time() - self.begin

    @property
    def bytes(self) -> int:
        return self._peak() - self.before

    @staticmethod
    def _peak() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def refused(data: bytes) -> str | None:
    """The cause for which a video is refused by any of the functions that read one; None if none refuses it."""
    causes = []
    for function in (probe, transcode, count_frames, lambda d: decode_clip(d, [3, 20], crop=(1, 1, 30, 30))):
        try:
            function(data)
        except VideoError as error:
            causes.append(error.cause)
        except IndexError:
            causes.append("short")
    return causes[0] if causes else None


def read_damaged(numbers: range) -> None:
    """Reads that many damaged videos; for a process of its own, whose memory is limited and measured."""
    data = small_video()
    assert refused(data) is None
    allowed = {"undecodable", "no video stream", "no frames", "too large", "wrong size", "short"}
    seen = set()
    for number in numbers:
        cost = Cost()
        cause = refused(damaged(data, number))
        seen.add(cause)
        assert cause is None or cause in allowed, (number, cause)
        assert cost.seconds < LIMIT_S, (number, cost.seconds)
        assert cost.bytes < LIMIT_BYTES, (number, cost.bytes)
    assert {None, "undecodable", "too large"} <= seen


def test_damaged_videos_neither_crash_nor_hang() -> None:
    assert run_process(read_damaged, range(120)) == 0


@pytest.mark.full
def test_a_thousand_damaged_videos() -> None:
    assert run_process(read_damaged, range(1000), timeout=600) == 0


@pytest.mark.parametrize("number", [363, 401, 538, 688, 752])
def test_frames_that_come_out_of_the_order_of_their_times_are_put_into_it(number: int) -> None:
    data = damaged(small_video(), number)
    encoded = transcode(data, crf=5)
    seen, kept = (probe(video).times.seconds(range(24)) for video in (data, encoded))
    np.testing.assert_allclose(kept, seen - seen[0], atol=1e-9)
    frames, again = (decode_clip(video, range(24)).astype(float) for video in (data, encoded))
    errors = [[np.abs(a - b).mean() for b in frames] for a in again]
    assert np.argmin(errors, axis=1).tolist() == list(range(24))


def claiming(data: bytes, table: bytes, count: int) -> bytes:
    """The video with a table that claims `count` entries; for `stsz`, all of one byte, so that no list is needed."""
    place = next(begin for kind, begin, _ in boxes(data) if kind == table) + 8 + TABLES[table]
    changed = bytearray(data)
    changed[place : place + 4] = count.to_bytes(4)
    if table == b"stsz":
        changed[place - 4 : place] = (1).to_bytes(4)
    return bytes(changed)


@pytest.mark.parametrize("table", TABLES)
def test_a_claim_of_a_billion_frames_costs_nothing(table: bytes, tmp_path: Path) -> None:
    data = claiming(small_video(), table, 10**9)
    (tmp_path / "file.mp4").write_bytes(data)
    cost = Cost()
    for function in (probe, transcode, count_frames, lambda d: decode_clip(d, [0])):
        with pytest.raises(VideoError, match=f"too large: 1,000,000,000 entries in {table.decode()}"):
            function(data)
    with pytest.raises(VideoError, match="too large"):
        probe(tmp_path / "file.mp4")
    assert cost.seconds < 1
    assert cost.bytes < 50 << 20


def test_titles_in_another_encoding_do_no_harm() -> None:
    data = small_video()
    changed = data.replace(b"VideoHandler", b"V\x80deoHandler")
    assert changed != data
    assert probe(changed) == probe(data)
    np.testing.assert_array_equal(decode_clip(changed, [3, 20]), decode_clip(data, [3, 20]))


def test_runs_of_frames_are_added_up() -> None:
    data = small_video()
    place = next(begin for kind, begin, _ in boxes(data) if kind == b"stts")
    changed = bytearray(data)
    changed[place + 16 : place + 20] = (FRAMES.most + 1).to_bytes(4)
    assert excess(bytes(changed)) == f"{FRAMES.most + 1:,} entries in stts"
    assert excess(data) is None


def test_a_picture_of_sixty_thousand_by_sixty_thousand_costs_nothing() -> None:
    functions = (probe, transcode, count_frames, lambda d: decode_clip(d, [0]))
    for function in functions:
        function(picture_claiming(64, 64))
    cost = Cost()
    for side in (60_000, 16_000, 4_112):
        data = picture_claiming(side, side)
        for function in functions:
            with pytest.raises(VideoError, match=f"too large: {side} x {side}|undecodable"):
                function(data)
    assert cost.seconds < 3
    assert cost.bytes < 100 << 20  # one picture of 16,000 x 16,000 would be 384 MB


def test_pictures_larger_than_the_limit_are_not_decoded() -> None:
    """The picture's own header is what counts: here it is true, and the container's is a lie."""
    changed = bytearray(one_picture(8192, 2176))
    begin = changed.index(b"avc1", changed.index(b"stsd"))
    changed[begin + 28 : begin + 32] = (64).to_bytes(2) + (64).to_bytes(2)
    for function in (probe, count_frames, lambda d: decode_clip(d, [0])):
        with pytest.raises(VideoError):
            function(bytes(changed))


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {path}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>{path}</BaseURL></MPD>",
    ],
)
def test_a_playlist_is_no_video_and_opens_nothing(text: str, tmp_path: Path) -> None:
    other = tmp_path / "other.ts"
    other.write_bytes(small_video())
    with pytest.raises(VideoError) as caught, open_video(text.format(path=other).encode()):
        pass
    assert caught.value.cause == "undecodable"
