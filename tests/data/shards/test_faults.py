"""An epoch through a connection that cuts, stalls, refuses, truncates and flips: the same samples, or the cause."""

import time
from contextlib import ExitStack, contextmanager
from functools import cache

import pytest
import torch

from helpers.fault_proxy import FAULTS, FaultProxy
from helpers.servers import nginx_server, plain_server, range_server, s3_at, s3_server
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice, read_video
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.shards import storage
from nlnet.data.shards.find import load_manifest
from nlnet.data.shards.reader import SampleError
from nlnet.data.shards.source import ReadSettings

LIMIT_S = 3.0
# web: a server with ranges; plain: one without; cached: S3, with whole shards kept in a folder
QUICK = {"s3": FAULTS, "web": ("cut", "flip"), "plain": ("stall", "flip"), "cached": ("503", "flip")}
CASES = [
    pytest.param(kind, fault, marks=[] if fault in quick else pytest.mark.full)
    for kind, quick in QUICK.items()
    for fault in FAULTS
] + [pytest.param("nginx", fault, marks=pytest.mark.programs) for fault in FAULTS]


@pytest.fixture(scope="module")
def servers(charades_shards, tmp_path_factory):
    """The address of a kind of server, which starts when it is first asked for."""
    start = {
        "s3": lambda: s3_server(charades_shards),
        "web": lambda: range_server(charades_shards),
        "plain": lambda: plain_server(charades_shards),
        "nginx": lambda: nginx_server(charades_shards, tmp_path_factory.mktemp("nginx")),
    }
    with ExitStack() as running:
        yield cache(lambda kind: running.enter_context(start[kind]()))


@contextmanager
def behind_proxy(servers, kind, rule=lambda _: None):
    """A proxy before a server, and the URL of the shards through it."""
    with FaultProxy(servers("s3" if kind == "cached" else kind), rule) as proxy:
        if kind in ("s3", "cached"):
            with s3_at(proxy.address):
                yield proxy, "s3://videos/tiny"
        else:
            storage._store.cache_clear()
            yield proxy, f"http://{proxy.address}"


def loader(root, cache_dir=None, limit_s=LIMIT_S):
    settings = ReadSettings(timeout_s=limit_s, parallel=4, cache_dir=cache_dir)
    manifest = load_manifest(root, "charades", "train", settings)
    view = ClipSettings(ClipGeometry(6, 1), size=24, scale=(24, 32), flip=True, train=True)
    return BatchLoader(ClipBatches(manifest, root, view, RankSlice(8), 1, 2, settings))


def epoch(root, cache_dir=None):
    running = loader(root, cache_dir)
    batches = list(running)
    running.close()
    return batches


def same_clips(a, b):
    return all(torch.equal(x, y) for x, y in zip(a["clips"], b["clips"], strict=True))


@pytest.fixture(scope="module")
def undisturbed(charades_shards):
    return epoch(str(charades_shards))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Shards of the server without ranges are kept in a folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_an_epoch_is_the_same_through_faults_that_pass(servers, undisturbed, tmp_path, kind, fault):
    """The first request for every shard's bytes fails, and every third one after that."""
    seen = {}

    def rule(request):
        # What asks a server without ranges for one is not a read: its body is not waited for.
        if not request.is_read or (kind == "plain" and request.start is not None):
            return None
        seen[request.path] = seen.get(request.path, 0) + 1
        return fault if seen[request.path] % 3 == 1 else None

    with behind_proxy(servers, kind, rule) as (proxy, root):
        batches = epoch(root, str(tmp_path) if kind == "cached" else None)
        assert {found for found, _ in proxy.faults} == {fault}
    assert len(batches) == len(undisturbed)
    for ours, theirs in zip(batches, undisturbed, strict=True):
        assert ours["failures"] == []
        assert torch.equal(ours["indices"], theirs["indices"])
        assert same_clips(ours, theirs)
    if fault != "flip" or kind in ("plain", "cached"):  # a range may be hit between two samples
        assert sum(batch["reading"]["retries"] for batch in batches) >= 3  # one a shard at least
    assert sum(batch["reading"]["bytes"] for batch in batches) > 0


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_a_shard_that_never_comes_is_named_with_its_cause_in_time(servers, undisturbed, tmp_path, kind, fault):
    def rule(request):
        return fault if request.is_read and "000001" in request.path else None

    with behind_proxy(servers, kind, rule) as (_, root):
        running = loader(root, str(tmp_path) if kind == "cached" else None, limit_s=1.5)
        samples = running.batches.manifest.samples
        began = time.monotonic()
        batches = list(running)
        seconds = time.monotonic() - began
        running.close()
    bad = {sample.key for sample in samples if sample.shard == 1}
    failures = [pair for batch in batches for pair in batch["failures"]]
    asked = {samples[i].key for batch in batches for i in batch["indices"].tolist()}
    assert len(failures) == len(set(failures))
    if fault == "flip" and kind in ("s3", "web", "nginx"):  # may hit what lies between two samples of a request
        assert set(failures) <= {(key, "checksum") for key in bad & asked}
    else:
        assert set(failures) == {(key, "unreadable") for key in bad & asked}
    for ours, theirs in zip(batches, undisturbed, strict=True):
        good = ours["weights"] > 0
        assert all(torch.equal(ours["clips"][k], theirs["clips"][k]) for k in good.nonzero().flatten().tolist())
    assert seconds < len(batches) * 2 * 1.5 * 3  # every read within its limit, and few of them one after the other


def test_the_message_names_the_shard_and_why(servers):
    with behind_proxy(servers, "s3", lambda request: "503" if request.is_read else None) as (_, root):
        url = f"{root}/charades-train-000000.tar"
        began = time.monotonic()
        with pytest.raises(storage.StorageError, match=r"000000.tar.*503 Service Unavailable.*tried \d+ times in"):
            storage.read_range(url, 0, 512, timeout_s=1.0)
        assert time.monotonic() - began < 1.0
    stalling = behind_proxy(servers, "s3", lambda request: "stall" if request.is_read else None)
    with stalling as (_, root), pytest.raises(storage.StorageError, match="timed out"):
        storage.read_range(f"{root}/charades-train-000000.tar", 0, 5120, timeout_s=1.2)


def test_a_sample_that_always_comes_spoilt_is_named(servers):
    with behind_proxy(servers, "s3", lambda request: "flip" if request.is_read else None) as (_, root):
        manifest = load_manifest(root, "charades", "train")
        with pytest.raises(SampleError, match=r"train0003 in .*train-000000.tar at \d+: its CRC32") as caught:
            read_video(manifest, root, manifest.samples[3])
    assert caught.value.cause == "checksum"


def test_a_cached_shard_is_fetched_once(servers, undisturbed, tmp_path):
    with behind_proxy(servers, "s3") as (proxy, root):
        first = epoch(root, str(tmp_path))
        assert sorted(request.path[-10:] for request in proxy.reads) == ["000000.tar", "000001.tar", "000002.tar"]
        again = epoch(root, str(tmp_path))
        assert len(proxy.reads) == 3
    for batches in (first, again):
        assert all(same_clips(ours, theirs) for ours, theirs in zip(batches, undisturbed, strict=True))


@pytest.mark.parametrize("kind", ["s3", "plain", "cached"])
def test_a_shard_that_is_not_there_is_counted_as_missing(servers, tmp_path, kind):
    with behind_proxy(servers, kind, lambda request: "404" if "000001.tar" in request.path else None) as (proxy, root):
        running = loader(root, str(tmp_path) if kind == "cached" else None)
        samples = running.batches.manifest.samples
        batches = list(running)
        running.close()
    lost = {samples[i].key for batch in batches for i in batch["indices"].tolist() if samples[i].shard == 1}
    assert {pair for batch in batches for pair in batch["failures"]} == {(key, "missing shard") for key in lost}
    if kind == "cached":
        assert len([request for request in proxy.reads if "000001.tar" in request.path]) == 1


@pytest.mark.parametrize(("status", "again"), [("403", False), ("400", False), ("429", True), ("408", True)])
def test_a_refusal_is_final_and_too_many_requests_is_not(servers, status, again):
    answers = iter([status])
    with behind_proxy(servers, "s3", lambda r: next(answers, None) if r.is_read else None) as (proxy, root):
        url = f"{root}/charades-train-000000.tar"
        if again:
            assert len(storage.read_range(url, 0, 512)) == 512
        else:
            with pytest.raises(storage.StorageError, match=r"000000.tar: .*tried 1 times"):
                storage.read_range(url, 0, 512)
        assert len(proxy.reads) == 1 + again


def test_what_is_refused_is_not_asked_for_again(servers):
    with behind_proxy(servers, "s3") as (proxy, root):
        with pytest.raises(FileNotFoundError):
            storage.read_range(f"{root}/nothing.tar", 0, 10)
        with pytest.raises(EOFError):
            storage.read_range(f"{root}/charades-train-000000.tar", 1 << 30, 10)
        with pytest.raises(EOFError, match="wanted 1073741824 bytes"):
            storage.read_range(f"{root}/charades-train-000000.tar", 0, 1 << 30)
        assert len(proxy.reads) == 3


def test_no_server_at_all_is_an_error_within_the_limit():
    began = time.monotonic()
    with pytest.raises(storage.StorageError, match="tried"):
        storage.read_range("http://127.0.0.1:9/a.tar", 0, 10, timeout_s=1.0)
    assert time.monotonic() - began < 1.0


def test_neighbors_come_in_one_request(servers):
    """Evaluation goes through a shard in order: the 8 clips of a batch are one range."""
    with behind_proxy(servers, "s3") as (proxy, root):
        manifest = load_manifest(root, "charades", "test")
        view = ClipSettings(ClipGeometry(6, 1), size=24, scale=(24, 32), flip=False, train=False)
        running = BatchLoader(ClipBatches(manifest, root, view, RankSlice(5), 1, 2))
        assert [batch["failures"] for batch in running] == [[]] * 4
        running.close()
        # 20 samples in shards of 7, 7 and 6, in batches of 5: two of the four batches lie in two shards.
        assert len(proxy.reads) == 6
        for request in proxy.reads:
            inside = [s for s in manifest.samples if request.path.endswith(f"{s.shard:06d}.tar")]
            assert request.start in {s.offset for s in inside}
            assert request.end in {s.offset + s.length for s in inside}
