"""Manifests and shards: what is written is what is read, byte for byte, and nothing half-written is left."""

import hashlib
import io
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
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
    assert manifest.subsets == {}
    with_subsets = replace(manifest, details={"subsets": {"late": [1], "none": []}})
    read = Manifest.from_json(with_subsets.to_json(), "m.json")
    assert (read, read.subsets) == (with_subsets, {"late": (1,), "none": ()})
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
        (_edit(lambda c: c.update(details={"subsets": {"late": [2]}})), "subset 'late' names a sample outside 0..1"),
        (_edit(lambda c: c.update(details={"subsets": {"late": [-1]}})), "subset 'late' names a sample outside 0..1"),
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


HOSTILE = [None, True, 0.5, -1, -(2**70), 10**400, "x", "", "a\0b", [], [[]], {}, math.nan, math.inf, -math.inf, 1e308]
HEAD = ("dataset", "split", "task", "classes", "groups", "shards", "sample", "samples", "details")
PLACES = [
    *(lambda c, v, name=name: c.__setitem__(name, v) for name in HEAD),
    *(lambda c, v, k=k: c["samples"][0].__setitem__(k, v) for k in range(10)),
    *(
        lambda c, v, k=k: c["samples"][0].__setitem__(9, [[*[0, 0.0, 1.0][:k], v, *[0, 0.0, 1.0][k + 1 :]]])
        for k in range(3)
    ),
    *(lambda c, v, k=k: c["shards"][0].__setitem__(k, v) for k in range(4)),
    lambda c, v: c["samples"].__setitem__(1, v),
    lambda c, v: c["samples"][0].__setitem__(9, [v]),
    lambda c, v: c["shards"].__setitem__(0, v),
    lambda c, v: c["classes"].__setitem__(0, v),
    lambda c, v: c["groups"].__setitem__("local", v),
    lambda c, v: c["groups"].__setitem__("local", [v]),
    lambda c, v: c.update(details={"subsets": v}),
    lambda c, v: c.update(details={"subsets": {"late": v}}),
    lambda c, v: c.update(details={"subsets": {"late": [v]}}),
    lambda c, v: c.update(task="detection", details={"categories": v}),
    lambda c, v: c.update(task="detection", details={"categories": [{"id": v, "name": v}]}),
]


@pytest.mark.parametrize("place", range(len(PLACES)))
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:12])
def test_a_value_of_a_wrong_type_is_refused_in_one_line_or_harmless(place: int, value: Any) -> None:
    """What is read has the types that it says, wherever a hostile value stood."""
    sys.set_int_max_str_digits(0)
    try:
        text = _edit(lambda c: PLACES[place](c, value))
    finally:
        sys.set_int_max_str_digits(4300)
    try:
        manifest = Manifest.from_json(text, "m.json")
    except UserError as error:
        said = str(error)
        refused = said.startswith("m.json: ") and "\n" not in said and len(said) < 400
        manifest = small_manifest() if refused else pytest.fail(said)
    for sample in manifest.samples:
        assert all(type(n) is int for n in (sample.shard, sample.offset, sample.length, sample.crc32, sample.frames))
        assert (type(sample.key), type(sample.fps)) == (str, float)
        assert all(tuple(map(type, label)) == (int, float, float) for label in sample.labels)
    assert all(type(name) is str for name in manifest.classes)
    assert all(type(k) is int and 0 <= k < 2 for members in manifest.subsets.values() for k in members)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["samples"][0].__setitem__(2, 0.5), "sample 0: offset is 0.5, not a whole number"),
        (lambda c: c["samples"][0].__setitem__(0, 7), "sample 0: key is 7, not a text"),
        (lambda c: c["samples"][0].__setitem__(6, math.nan), "sample 0: fps is nan, not a finite number"),
        (lambda c: c["samples"][0].__setitem__(1, True), "sample 0: shard is True, not a whole number"),
        (lambda c: c["samples"][0].__setitem__(9, [[0, [1], 2]]), "a label of sample 0: start is a list, not a number"),
        (lambda c: c["classes"].__setitem__(1, 3), "class 1 is 3, not a text"),
        (lambda c: c["samples"][0].__setitem__(0, "k" * 5000), "sample 0: key is a text of 5000 characters"),
        (lambda c: c["shards"][0].__setitem__(2, 2**80), "shard 0: bytes is a whole number of 81 bits"),
    ],
)
def test_a_wrong_type_is_named(edit: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        Manifest.from_json(_edit(edit), "m.json")
    assert words in str(caught.value)


def timed_manifest() -> Manifest:
    manifest = small_manifest()
    a, b = manifest.samples
    return replace(manifest, samples=(replace(a, table=(1, 1000, 1500, *[33] * 6, 900)), replace(b, table=(1, 30, -2))))


def test_time_tables_survive_beside_the_samples_and_only_where_there_are_any() -> None:
    manifest = timed_manifest()
    text = manifest.to_json()
    assert Manifest.from_json(text, "") == manifest
    content = json.loads(text)
    assert content["times"] == {"a": [1, 1000, 1500, *[33] * 6, 900], "b": [1, 30, -2]}
    del content["times"]
    assert content == json.loads(small_manifest().to_json())  # else it is the manifest of earlier versions
    assert manifest.samples[0].times.seconds([0, 1, 7]).tolist() == [1.5, 1.533, 2.598]
    assert small_manifest().samples[0].times.seconds(3) == 3 / (30000 / 1001)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (7, "times of 'a' is 7, not a list"),
        ([1, 1000], "2 numbers, not 3 or 10"),
        ([1, 1000, 0, 33], "4 numbers, not 3 or 10"),
        ([1, 0, 0], "they go back, or beyond"),
        ([0, 1000, 0], "they go back, or beyond"),
        ([-1, 1000, 0], "they go back, or beyond"),
        ([1, 1000, 0, *[33] * 6, -1], "they go back, or beyond"),
        ([1 << 40, 1000, 1 << 40], "they go back, or beyond"),
        ([1, 1000, 1 << 63], "a whole number of 64 bits"),
        ([1, 1000, 0.5], "is 0.5, not a whole number"),
        ([1, 1000, True], "is True, not a whole number"),
        ([1, 1000, None], "is None, not a whole number"),
    ],
)
def test_a_malformed_time_table_is_named(table: Any, words: str) -> None:
    content = json.loads(timed_manifest().to_json())
    content["times"]["a"] = table
    with pytest.raises(UserError, match="malformed manifest") as caught:
        Manifest.from_json(json.dumps(content), "m.json")
    assert words in str(caught.value)


def test_times_of_nothing_are_named() -> None:
    content = json.loads(timed_manifest().to_json())
    content["times"]["nobody"] = [1, 1000, 0]
    with pytest.raises(UserError, match="times of 'nobody', which is no sample"):
        Manifest.from_json(json.dumps(content), "m.json")
