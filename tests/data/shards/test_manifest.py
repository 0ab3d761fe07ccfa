"""Manifests and shards: what is written is what is read, byte for byte, and nothing half-written is left."""

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from nlnet.data.media.video import VideoInfo
from nlnet.data.shards.manifest import Manifest, Sample, Shard, manifest_name, write_manifest
from nlnet.data.shards.writer import RawSample, write_shard
from nlnet.errors import UserError


def raw(key: str, size: int) -> RawSample:
    video = hashlib.sha256(key.encode()).digest() * (size // 32 + 1)
    return RawSample(key, video[:size], VideoInfo(8, 29.97, 32, 24), ((1, 0.0, 1.5), (0, 0.25, 2.0)))


def read_tar(data: bytes) -> list[dict[str, Any]]:
    """What WebDataset makes of these bytes."""
    return list(group_by_keys(tar_file_expander([{"url": "memory", "stream": io.BytesIO(data)}])))


def small_manifest() -> Manifest:
    return Manifest(
        dataset="charades",
        split="train",
        task="multilabel",
        classes=("c000 Hält etwas", "c001"),
        groups={"local": (0,), "relational": (1,)},
        shards=(Shard("charades-train-000000.tar", 2, 20480, "ab" * 32),),
        samples=(
            Sample("a", 0, 0, 2048, 7, 8, 30000 / 1001, 32, 24, ((0, 0.1, 1.7),)),
            Sample("b", 0, 2048, 1024, 4294967295, 1, 0.1, 2, 2, ()),
        ),
    )


def test_a_manifest_survives_a_round_trip(tmp_path: Path) -> None:
    manifest = small_manifest()
    path = write_manifest(tmp_path, manifest)
    assert path == tmp_path / "charades-train-manifest.json" == tmp_path / manifest_name("charades", "train")
    assert Manifest.from_json(path.read_text(), str(path)) == manifest
    assert list(tmp_path.iterdir()) == [path]
    assert manifest.samples[0].duration == pytest.approx(8 * 1001 / 30000, abs=1e-12)


def _edit(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(small_manifest().to_json())
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<html>", "not a shard manifest"),
        ("[]", "not a shard manifest"),
        ("{}", "format"),
        (_edit(lambda c: c.update(format=2)), "manifest format 2"),
        (_edit(lambda c: c.pop("classes")), "'classes' is missing"),
        (_edit(lambda c: c.update(samples={})), "'samples' is a dict"),
        (_edit(lambda c: c.update(task="regression")), "'regression'"),
        (_edit(lambda c: c["sample"].reverse()), "sample fields"),
        (_edit(lambda c: c["groups"].update(local=[2])), "group 'local'"),
        (_edit(lambda c: c["samples"][0].__setitem__(0, "b")), "'b' occurs twice"),
        (_edit(lambda c: c["samples"][0].__setitem__(1, 1)), "shard 1 of 1"),
        (_edit(lambda c: c["samples"][0].__setitem__(3, 10**6)), "'a' lies outside its shard"),
        (_edit(lambda c: c["samples"][0].__setitem__(6, 0.0)), "8 frames at 0.0"),
        (_edit(lambda c: c["samples"][0].__setitem__(9, [[2, 0, 1]])), "class outside 0..1"),
        (_edit(lambda c: c["samples"][0].pop()), "malformed"),
        (_edit(lambda c: c["samples"].pop()), "hold 2 samples, but 1"),
        (small_manifest().to_json()[:-40], "not a shard manifest"),
    ],
)
def test_a_malformed_manifest_is_named(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Manifest.from_json(text, "s3://bucket/m.json")
    assert str(caught.value).startswith("s3://bucket/m.json: ")
    assert words in str(caught.value)


def test_a_byte_range_is_exactly_its_sample(tmp_path: Path) -> None:
    samples = [raw(f"v{i}", size) for i, size in enumerate((1, 511, 512, 513, 20_000, 0))]
    shard, written = write_shard(tmp_path / "x-train-000003.tar", 3, iter(samples))
    tar = (tmp_path / shard.name).read_bytes()
    assert shard == Shard("x-train-000003.tar", 6, len(tar), hashlib.sha256(tar).hexdigest())
    assert written[0].offset == 0
    for before, after in pairwise(written):
        assert before.offset + before.length == after.offset
    for expected, sample in zip(samples, written, strict=True):
        data = tar[sample.offset : sample.offset + sample.length]
        assert (sample.shard, sample.crc32) == (3, zlib.crc32(data))
        [found] = read_tar(data)
        assert {name for name in found if not name.startswith("__")} == {"mp4", "json"}
        assert (found["__key__"], found["mp4"]) == (expected.key, expected.video)
        assert json.loads(found["json"]) == {
            "key": sample.key,
            "labels": [[1, 0.0, 1.5], [0, 0.25, 2.0]],
            "frames": 8,
            "fps": 29.97,
            "width": 32,
            "height": 24,
        }
    assert [found["__key__"] for found in read_tar(tar)] == [sample.key for sample in samples]


def test_shards_are_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "s.tar", 0, [raw("k", 700), raw("l", 100)])
    assert (tmp_path / "a" / "s.tar").read_bytes() == (tmp_path / "b" / "s.tar").read_bytes()


@pytest.mark.parametrize("key", ["a.b", "", "a/b", "ü", "x" * 91])
def test_a_key_that_webdataset_would_cut_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="the key"):
        write_shard(tmp_path / "s.tar", 0, [raw(key, 10)])
    assert not list(tmp_path.iterdir())


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[RawSample]:
        yield raw("k", 100_000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "s.tar", 0, broken())
    with pytest.raises(ValueError, match="'k'"):
        write_shard(tmp_path / "s.tar", 0, [raw("k", 1), raw("k", 1)])
    assert not list(tmp_path.iterdir())
