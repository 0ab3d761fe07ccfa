"""Shards read from S3 over a real socket, in the training process and in a loader worker."""

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from nlnet.data import storage
from nlnet.data.clips import ClipGeometry
from nlnet.data.loader import ClipBatches, ClipLoader, Share, View
from nlnet.data.module import load_manifest
from nlnet.errors import UserError


@pytest.fixture(scope="module")
def bucket(charades_shards):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="videos")
        for path in charades_shards.iterdir():
            client.upload_file(str(path), "videos", f"tiny/{path.name}")
        storage._store.cache_clear()
        yield "s3://videos/tiny"
        storage._store.cache_clear()
    server.stop()


def batches(root, workers):
    manifest = load_manifest(root, "charades", "train")
    view = View(ClipGeometry(8, 1), size=24, scale=(24, 32), flip=True, train=True)
    return list(ClipLoader(ClipBatches(manifest, root, view, Share(8), seed=1, window=2), workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_from_s3_are_those_from_disk(charades_shards, bucket, workers):
    local, remote = batches(str(charades_shards), 0), batches(bucket, workers)
    assert len(local) == len(remote) == 4
    for a, b in zip(local, remote, strict=True):
        assert a["failures"] == b["failures"] == []
        assert torch.equal(a["indices"], b["indices"])
        assert all(torch.equal(x, y) for x, y in zip(a["clips"], b["clips"], strict=True))


def test_what_is_not_there_is_named(bucket):
    with pytest.raises(UserError, match="there is no charades-val-manifest"):
        load_manifest(bucket, "charades", "val")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{bucket}/nothing.tar")
    with pytest.raises(EOFError, match="wanted 100000000 bytes"):
        storage.read_range(f"{bucket}/charades-train-000000.tar", 0, 100_000_000)
    with pytest.raises(UserError, match="ftp"):
        storage.read_bytes("ftp://host/a.tar")
