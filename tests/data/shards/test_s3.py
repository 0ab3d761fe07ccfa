"""Shards read from S3 over a real socket, in the training process and in a loader worker."""

import pytest
import torch

from helpers.servers import s3_at, s3_server
from nlnet import limits
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.shards import storage
from nlnet.data.shards.find import find_shards, load_manifest
from nlnet.data.shards.source import DEFAULTS
from nlnet.errors import UserError


@pytest.fixture(scope="module")
def bucket(charades_shards):
    with s3_server(charades_shards) as address, s3_at(address):
        yield "s3://videos/tiny"


def batches(root, workers):
    manifest = load_manifest(root, "charades", "train")
    view = ClipSettings(ClipGeometry(8, 1), size=24, scale=(24, 32), flip=True, train=True)
    return list(BatchLoader(ClipBatches(manifest, root, view, RankSlice(8), seed=1, window=2), workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_from_s3_are_those_from_disk(charades_shards, bucket, workers):
    local, remote = batches(str(charades_shards), 0), batches(bucket, workers)
    assert len(local) == len(remote) == 4
    for a, b in zip(local, remote, strict=True):
        assert a["failures"] == b["failures"] == []
        assert torch.equal(a["indices"], b["indices"])
        assert all(torch.equal(x, y) for x, y in zip(a["clips"], b["clips"], strict=True))


def test_shards_are_found_by_a_pattern_too(charades_shards, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found, root = find_shards(f"{bucket}/charades-train-*.tar", "any", "train", DEFAULTS)
    said = load_manifest(bucket, "charades", "train")
    assert root == ""
    assert [shard.name for shard in found.shards] == [f"{bucket}/{shard.name}" for shard in said.shards]
    assert [(s.offset, s.length, s.crc32) for s in found.samples] == [
        (s.offset, s.length, s.crc32) for s in said.samples
    ]


def test_what_is_not_there_is_named(bucket):
    with pytest.raises(UserError, match=r"there is no charades-val-manifest.json, but charades-test-manifest.json"):
        load_manifest(bucket, "charades", "val")
    with pytest.raises(UserError, match="the folder holds no shards"):
        load_manifest(f"{bucket}/nowhere", "charades", "val")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{bucket}/nothing.tar", limits.SHARD)
    with pytest.raises(EOFError, match="wanted 100000000 bytes"):
        storage.read_range(f"{bucket}/charades-train-000000.tar", 0, 100_000_000)
    with pytest.raises(UserError, match="ftp"):
        storage.read_bytes("ftp://host/a.tar", limits.SHARD)
