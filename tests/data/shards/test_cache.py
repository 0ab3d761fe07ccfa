"""The shard cache: checked when filled, bounded, and safe for several processes at once."""

import hashlib
import os
import time

import pytest

from helpers.fault_proxy import FaultProxy
from helpers.processes import context
from helpers.servers import plain_server
from nlnet.data.shards.cache import ShardCache
from nlnet.data.shards.manifest import Shard
from nlnet.data.shards.source import ReadSettings, ShardSource
from nlnet.data.shards.storage import StorageError, Traffic
from nlnet.errors import UserError

SIZE = 100_000


@pytest.fixture
def shards(tmp_path):
    """Shards of one basename in two folders, served without ranges: (server's folder, url -> content)."""
    root, contents = tmp_path / "served", {}
    for k, folder in enumerate(("train", "val", "more")):
        (root / folder).mkdir(parents=True)
        contents[f"{folder}/000000.tar"] = bytes([k + 1]) * SIZE
        (root / folder / "000000.tar").write_bytes(contents[f"{folder}/000000.tar"])
    return root, contents


def cache(tmp_path, limit=10 * SIZE):
    return ShardCache(tmp_path / "cache", limit, 2.0, Traffic())


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def kept(folder):
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_the_whole_url_is_the_key_and_a_shard_is_fetched_once(tmp_path, shards):
    root, contents = shards
    with plain_server(root) as server, FaultProxy(server) as proxy:
        shelf = cache(tmp_path)
        for _ in range(3):
            for name, content in contents.items():
                data = shelf.read_range(f"http://{proxy.address}/{name}", SIZE, sha256(content), 10, 50)
                assert data == content[10:60]
        whole = [request for request in proxy.reads if request.start is None]
        assert sorted(request.path for request in whole) == sorted(f"/{name}" for name in contents)
    assert len(kept(tmp_path / "cache")) == 3


def test_what_was_used_longest_ago_makes_room(tmp_path, shards):
    root, contents = shards
    with plain_server(root) as server:
        shelf = cache(tmp_path, limit=2 * SIZE)
        urls = {name: f"http://{server}/{name}" for name in contents}
        for name in ("train/000000.tar", "val/000000.tar", "train/000000.tar", "more/000000.tar"):
            shelf.read_range(urls[name], SIZE, sha256(contents[name]), 0, 1)
            time.sleep(0.02)
        held = {path.name for path in kept(tmp_path / "cache")}
        assert held == {shelf.name(urls["train/000000.tar"]), shelf.name(urls["more/000000.tar"])}
        # What was taken away meanwhile is fetched again.
        assert shelf.read_range(urls["val/000000.tar"], SIZE, sha256(contents["val/000000.tar"]), 5, 1) == b"\x02"
        with pytest.raises(UserError, match="cache_gb"):
            cache(tmp_path, limit=SIZE // 2).read_range(urls["val/000000.tar"] + "?", SIZE, "", 0, 1)


def test_a_shard_that_is_not_the_manifests_is_not_kept(tmp_path, shards):
    root, contents = shards
    with plain_server(root) as server, FaultProxy(server) as proxy:
        shelf, url = cache(tmp_path), f"http://{proxy.address}/val/000000.tar"
        for _ in range(5):
            with pytest.raises(
                StorageError, match=r"val/000000.tar: its SHA-256 is not the manifest's; fetched 4 times"
            ):
                shelf.read_range(url, SIZE, sha256(contents["train/000000.tar"]), 0, 1)
        assert len([request for request in proxy.reads if request.start is None]) == 4  # remembered, not tried again
        with pytest.raises(StorageError, match="100000 bytes came instead of 200000"):
            cache(tmp_path).read_range(url, 2 * SIZE, "", 0, 1)
    assert kept(tmp_path / "cache") == []


def fetch(folder, url, digest, note):
    shelf = ShardCache(folder, 10 * SIZE, 2.0, Traffic())
    note.write_bytes(shelf.read_range(url, SIZE, digest, 0, SIZE))


def test_several_processes_fill_a_shard_once(tmp_path, shards):
    root, contents = shards
    content = contents["val/000000.tar"]
    with plain_server(root) as server, FaultProxy(server) as proxy:
        url = f"http://{proxy.address}/val/000000.tar"
        folder = tmp_path / "cache"
        folder.mkdir()
        (folder / ".killed.tar.tmp").write_bytes(b"half")  # what a killed process left
        notes = [tmp_path / f"note{k}" for k in range(4)]
        processes = [context.Process(target=fetch, args=(folder, url, sha256(content), note)) for note in notes]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [note.read_bytes() == content for note in notes] == [True] * 4
        assert len([request for request in proxy.reads if request.start is None]) == 1
    assert not list(folder.glob(".*.tmp"))


def test_a_command_is_run_only_where_that_is_switched_on(tmp_path, shards):
    root, contents = shards
    content = contents["val/000000.tar"]
    shard = Shard(f"pipe:cat {root}/val/000000.tar", 1, SIZE, sha256(content))
    with pytest.raises(UserError, match=r"set data.allow_pipe=true"):
        ShardSource("", [shard], ReadSettings())
    with pytest.raises(UserError, match="not a plain file name"):
        ShardSource("s3://bucket/a", [Shard("pipe:touch /x", 1, 1, "")], ReadSettings(allow_pipe=True))
    settings = ReadSettings(cache_dir=str(tmp_path / "cache"), allow_pipe=True, timeout_s=0.5)
    source = ShardSource("", [shard], settings)
    assert source.read(0, 7, 9) == content[7:16]
    # A command that fails after it has written everything is a failure, too.
    for command, words in ((f"cat {root}/val/000000.tar; exit 3", "exit code 3"), ("sleep 30", "silent for 0.5 s")):
        bad = ShardSource("", [Shard(f"pipe:{command}", 1, SIZE, sha256(content))], settings)
        began = time.monotonic()
        with pytest.raises(StorageError, match=words):
            bad.read(0, 0, 1)
        assert time.monotonic() - began < 15
    assert os.listdir(tmp_path / "cache" / "shards")
