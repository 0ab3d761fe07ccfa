"""Shards with flipped bits, cut, zeroed or replaced: what is read is right or counted, and nothing hangs or crashes."""

import shutil

import numpy as np
import pytest
import torch

from helpers.shards import write_tiny
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.shards.find import load_manifest
from nlnet.data.shards.index import index
from nlnet.data.shards.source import ReadSettings
from nlnet.data.shards.tar import walk
from nlnet.errors import UserError

CAUSES = {"checksum", "truncated shard", "missing shard", "malformed", "unreadable"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("whole"), train=8, val=8, shards=2)


@pytest.fixture(scope="module")
def manifest(shards):
    return load_manifest(str(shards), "charades", "test")


def epoch(manifest, folder):
    view = ClipSettings(ClipGeometry(4, 1), size=24, scale=(24, 24), flip=False, train=False)
    return list(BatchLoader(ClipBatches(manifest, str(folder), view, RankSlice(4), 0, 2)))


@pytest.fixture(scope="module")
def clean(manifest, shards):
    return epoch(manifest, shards)


def boundaries(data):
    """Every place in a tar where something begins or ends."""
    members = list(walk(lambda offset, length: data[offset : offset + length], len(data)))
    return sorted({0, len(data), *(p for m in members for p in (m.start, m.offset, m.offset + m.size, m.end))})


def mutate(data, k, rng):
    """The k-th way to spoil a shard; every structural boundary is cut at before the kinds repeat."""
    cuts = boundaries(data)
    if k < len(cuts):
        return data[: cuts[k]]
    kind = k % 5
    spoilt = bytearray(data)
    if kind == 0:
        for position in rng.integers(0, len(data), rng.integers(1, 20)):
            spoilt[position] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        start = int(rng.integers(len(data)))
        spoilt[start : start + int(rng.integers(1, 4096))] = bytes(min(4096, len(data) - start))
        spoilt = spoilt[: len(data)]
    elif kind == 2:
        return data[: int(rng.integers(len(data)))]
    elif kind == 3:
        return b"<!DOCTYPE html><html><body>Sign in</body></html>" * int(rng.integers(1, 400))
    else:  # two blocks change places
        a, b = sorted(rng.integers(0, len(data) // 512, 2) * 512)
        spoilt[a : a + 512], spoilt[b : b + 512] = spoilt[b : b + 512], spoilt[a : a + 512]
    return bytes(spoilt)


def check_reading(manifest, folder, clean):
    failed = 0
    for ours, theirs in zip(epoch(manifest, folder), clean, strict=True):
        good = (ours["weights"] > 0).tolist()
        failed += good.count(False)
        assert len(ours["failures"]) == good.count(False)
        assert {cause for _, cause in ours["failures"]} <= CAUSES
        for slot in np.flatnonzero(good):
            assert torch.equal(ours["clips"][slot], theirs["clips"][slot])
            assert torch.equal(ours["targets"][slot], theirs["targets"][slot])
    return failed


def check_indexing(path, cache, whole):
    """Without a manifest nothing says which bytes are right, but what is no tar is refused, and the rest adds up."""
    try:
        found = index([str(path)], "charades", "test", ReadSettings(cache_dir=str(cache)))
    except UserError:
        return
    assert len(found.samples) <= whole
    assert all(s.frames > 0 and s.offset + s.length <= found.shards[0].bytes for s in found.samples)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.full)])
def test_spoilt_shards(shards, manifest, clean, tmp_path, count):
    folder = tmp_path / "spoilt"
    shutil.copytree(shards, folder)
    path = folder / manifest.shards[0].name
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    per_shard = manifest.shards[0].samples
    failures = []
    for k in range(count):
        spoilt = mutate(data, k, rng)
        path.write_bytes(spoilt)
        failures.append(check_reading(manifest, folder, clean))
        assert failures[-1] <= per_shard
        if spoilt == data:
            assert failures[-1] == 0
        if k % 4 == 0:
            check_indexing(path, tmp_path / "cache", per_shard)
    assert failures[0] == per_shard  # an empty shard
    assert sum(map(bool, failures)) > 0.7 * count


def test_a_shard_that_is_gone(shards, manifest, clean, tmp_path):
    folder = tmp_path / "spoilt"
    shutil.copytree(shards, folder)
    (folder / manifest.shards[1].name).unlink()
    assert check_reading(manifest, folder, clean) == manifest.shards[1].samples
