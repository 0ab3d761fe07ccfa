"""Lint finds every kind of damage, and only that; from a folder, from one manifest, from S3."""

import hashlib
import json
import re
import tarfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from helpers.damage import damaged
from helpers.shards import write_tiny
from helpers.videos import make_video
from nlnet.data.media.encode import encode_frames
from nlnet.data.media.video import VideoInfo, probe
from nlnet.data.shards.manifest import Manifest, write_manifest
from nlnet.data.shards.writer import RawSample, write_shard
from nlnet.data.verify.check import verify
from nlnet.data.verify.page import page
from nlnet.data.verify.report import Options, Report
from nlnet.errors import UserError

ALL = Options(decode=1.0, span=8, thumbnails=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "shards", train=9, val=4, shards=2)


def manifest_of(folder: Path, split: str = "train") -> Manifest:
    path = folder / f"charades-{split}-manifest.json"
    return Manifest.from_json(path.read_text(), str(path))


def causes(report: Report) -> list[tuple[str, str]]:
    return sorted((finding.where, finding.cause) for finding in report.findings)


def resealed(folder: Path, data: bytes, shard: int = 0, **sample: Any) -> None:
    """Writes a shard's new bytes with a manifest whose checksums agree with them; `sample` changes the first sample."""
    manifest = manifest_of(folder)
    rows, shards = list(manifest.samples), list(manifest.shards)
    first = next(i for i, row in enumerate(rows) if row.shard == shard)
    rows[first] = replace(rows[first], **sample)
    for i, row in enumerate(rows):
        if row.shard == shard:
            rows[i] = replace(row, crc32=_crc(data[row.offset : row.offset + row.length]))
    name = shards[shard].name
    shards[shard] = replace(shards[shard], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / name).write_bytes(data)
    write_manifest(folder, replace(manifest, shards=tuple(shards), samples=tuple(rows)))


def _crc(data: bytes) -> int:
    import zlib

    return zlib.crc32(data)


def test_good_shards_have_no_faults(folder: Path) -> None:
    report = verify(str(folder), ALL)
    assert report.findings == []
    assert (report.samples, report.decoded, report.short) == (13, 13, [])
    assert report.bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))
    for split, count in (("train", 9), ("test", 4)):
        manifest = manifest_of(folder, split)
        expected = {
            name: sum(any(index == k for index, _, _ in sample.labels) for sample in manifest.samples)
            for k, name in enumerate(manifest.classes)
        }
        assert dict(report.labels[split]) == expected
        assert len(manifest.samples) == count
    assert verify(str(folder), replace(ALL, span=9)).short == [(s, k, 8) for s, k, _ in _all_samples(folder)]
    assert 0 < verify(str(folder), replace(ALL, decode=0.5)).decoded < 13
    one = verify(str(folder / "charades-test-manifest.json"), ALL)
    assert (one.samples, one.findings) == (4, [])


def _all_samples(folder: Path) -> list[tuple[str, str, int]]:
    return [(split, s.key, s.frames) for split in ("test", "train") for s in manifest_of(folder, split).samples]


@pytest.mark.parametrize("decode", [0.0, 1.0])
def test_a_flipped_bit_in_a_sample(folder: Path, decode: float) -> None:
    manifest = manifest_of(folder)
    sample, shard = manifest.samples[1], manifest.shards[0]
    data = bytearray((folder / shard.name).read_bytes())
    data[sample.offset + sample.length - 700] ^= 4
    (folder / shard.name).write_bytes(data)
    found = causes(verify(str(folder), replace(ALL, decode=decode)))
    assert found == [(shard.name, "checksum"), (f"train/{sample.key}", "checksum")]


def test_shards_that_are_cut_longer_or_gone(folder: Path) -> None:
    first, second = (folder / shard.name for shard in manifest_of(folder).shards)
    whole = first.read_bytes()
    first.write_bytes(whole[:-600])
    second.unlink()
    report = causes(verify(str(folder), ALL))
    assert report == [(first.name, "checksum"), (first.name, "size"), (second.name, "unreadable")]
    first.write_bytes(whole[: len(whole) // 2])
    assert (first.name, "unreadable") in causes(verify(str(folder), ALL))
    first.write_bytes(whole + b"more")
    report = causes(verify(str(folder), ALL))
    assert report == [(first.name, c) for c in ("checksum", "size", "unlisted")] + [(second.name, "unreadable")]


def test_files_that_the_manifest_does_not_list(folder: Path) -> None:
    name = manifest_of(folder).shards[0].name
    with tarfile.open(folder / name, "a") as tar:
        tar.add(__file__, arcname="stranger.mp4")
    resealed(folder, (folder / name).read_bytes())
    assert causes(verify(str(folder), ALL)) == [(name, "unlisted")]


def test_a_manifest_that_contradicts_the_video(folder: Path) -> None:
    key = manifest_of(folder).samples[0].key
    whole = (folder / manifest_of(folder).shards[0].name).read_bytes()
    resealed(folder, whole, frames=7)
    assert causes(verify(str(folder), replace(ALL, decode=0.0))) == [(f"train/{key}", "mismatch")]
    # The description in the tar is changed as well: only decoding can tell.
    resealed(folder, whole.replace(b'"frames":8', b'"frames":7', 1), frames=7)
    assert causes(verify(str(folder), replace(ALL, decode=0.0))) == []
    assert causes(verify(str(folder), ALL)) == [(f"train/{key}", "mismatch")]


def test_equal_videos_are_found_across_splits(tmp_path: Path) -> None:
    video = encode_frames(np.zeros((8, 32, 32, 3), np.uint8), 8.0)
    other = encode_frames(np.full((8, 32, 32, 3), 90, np.uint8), 8.0)
    for split, videos in (("train", [video, other, other]), ("test", [video])):
        raws = [RawSample(f"v{i}", data, VideoInfo(8, 8.0, 32, 32), ()) for i, data in enumerate(videos)]
        shard, rows = write_shard(tmp_path / f"charades-{split}-000000.tar", 0, raws)
        write_manifest(tmp_path, Manifest("charades", split, "multilabel", ("a",), {}, (shard,), tuple(rows)))
    report = verify(str(tmp_path), ALL)
    assert sorted(report.findings) == [
        ("test/v0", "duplicate", "the same file as train/v0, and in several splits"),
        ("train/v1", "duplicate", "the same file as train/v2"),
    ]
    assert verify(str(tmp_path), replace(ALL, duplicates=True)).findings == []


def test_videos_that_were_damaged_before_they_were_sealed(tmp_path: Path) -> None:
    """Checksums agree; what is wrong shows when the videos are decoded, and stops nothing."""
    good = encode_frames(np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3)).astype(np.uint8), 8.0)
    raws = [RawSample(f"v{i}", damaged(good, i), VideoInfo(8, 8.0, 32, 32), ()) for i in range(60)]
    shard, rows = write_shard(tmp_path / "charades-train-000000.tar", 0, raws)
    write_manifest(tmp_path, Manifest("charades", "train", "multilabel", ("a",), {}, (shard,), tuple(rows)))
    report = verify(str(tmp_path), replace(ALL, duplicates=True, thumbnails=60))
    assert report.decoded == 60
    found = {finding.cause for finding in report.findings}
    assert {"undecodable", "too large"} <= found <= {
        "undecodable", "too large", "mismatch", "no frames", "no video stream", "malformed", "wrong size",
    }  # fmt: skip
    assert len(report.thumbnails) + len({finding.where for finding in report.findings}) == 60


def test_remote_shards_through_a_real_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="verify")
    for path in folder.iterdir():
        client.upload_file(str(path), "verify", f"some/{path.name}")
    local, remote = verify(str(folder), ALL), verify("s3://verify/some", ALL)
    assert remote.findings == local.findings == []
    assert (remote.bytes, remote.decoded, remote.labels) == (local.bytes, local.decoded, local.labels)
    name = manifest_of(folder).shards[1].name
    client.delete_object(Bucket="verify", Key=f"some/{name}")
    assert causes(verify("s3://verify/some", ALL)) == [(name, "unreadable")]
    with pytest.raises(UserError, match=r"s3://verify/nothing: no \*-manifest.json here"):
        verify("s3://verify/nothing", ALL)
    server.stop()


class _Page(HTMLParser):
    """What a page shows and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_escapes_what_it_shows(folder: Path) -> None:
    manifest = manifest_of(folder)
    write_manifest(folder, replace(manifest, classes=("<script>alert(1)</script>", *manifest.classes[1:])))
    (folder / manifest.shards[1].name).unlink()
    report = verify(str(folder), replace(ALL, span=9))
    text = page(report)
    shown = _Page(text)
    assert "script" not in shown.tags
    assert "<script>alert(1)</script>" in shown.text
    assert shown.tags.count("img") == len(report.thumbnails) >= 3
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in shown.references)
    assert not re.search(r"https?://|@import|url\(", text)
    for words in ("1 fault", "1 unreadable", manifest.shards[1].name, "13 videos with fewer than 9 frames"):
        assert words in shown.text
    assert json.dumps(report.bytes) != "0"


def test_where_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \*-manifest.json here; name the folder or prefix that prepare wrote to"):
        verify(str(tmp_path), ALL)
    (tmp_path / "x-train-manifest.json").write_text("{}")
    with pytest.raises(UserError, match="not a shard manifest"):
        verify(str(tmp_path), ALL)
    with pytest.raises(UserError, match="cannot be read"):
        verify(str(tmp_path / "y-train-manifest.json"), ALL)


def test_frames_that_are_not_where_the_manifest_says(tmp_path: Path) -> None:
    """A manifest of an earlier version knows the mean rate only."""
    video = make_video([*range(0, 400, 40), *range(400, 2400, 200)])
    info = probe(video)
    shard, samples = write_shard(tmp_path / "x-train-000000.tar", 0, [RawSample("v", video, info, ())])
    manifest = Manifest("x", "train", "multilabel", ("a",), {}, (shard,), tuple(samples))
    num, den, start, *steps = info.table
    for table, causes in ((info.table, []), ((num, den, start + 7, *steps), []), ((), ["mismatch"])):
        write_manifest(tmp_path, replace(manifest, samples=(replace(samples[0], table=table),)))
        report = verify(str(tmp_path), Options(decode=1.0))
        assert [finding.cause for finding in report.findings] == causes
        assert all("from where the manifest says they are" in finding.detail for finding in report.findings)
