"""Shards and manifests at addresses with a signature, at servers that refuse HEAD, and what servers say in words."""

import socket
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from helpers.servers import free_port, s3_at, server_process
from nlnet import limits
from nlnet.data.batches.clips import read_video
from nlnet.data.modules.clips import ClipDataModule
from nlnet.data.shards import storage
from nlnet.data.shards.find import find_shards
from nlnet.data.shards.source import ReadSettings
from nlnet.data.verify.check import verify
from nlnet.errors import UserError
from nlnet.prediction.inputs import find_videos

SIGNATURE = "X-Amz-Signature=abc%2Fdef&X-Amz-Expires=60"


class Store(BaseHTTPRequestHandler):
    """Ranges of files for GET with the signature; HEAD as `head` says; `status` for everything where it is set."""

    protocol_version = "HTTP/1.1"
    root = Path()
    head = 403
    status = 0
    signature = SIGNATURE

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.answer(self.head, b"")

    def do_GET(self) -> None:
        name, _, query = self.path.partition("?")
        path = self.root / name.lstrip("/").split("/")[-1]
        if self.status or query != self.signature:
            self.answer(self.status or 403, b"<?xml version='1.0'?>\n<Error><Code>SignatureDoesNotMatch</Code></Error>")
        elif not path.is_file():
            self.answer(404, b"<Error>\nNoSuchKey</Error>")
        elif asked := self.headers.get("Range"):
            data = path.read_bytes()
            begin, end = (int(part) for part in asked.removeprefix("bytes=").split("-"))
            self.answer(206, data[begin : end + 1], Content_Range=f"bytes {begin}-{end}/{len(data)}", ETag='"x"')
        else:
            self.answer(200, path.read_bytes())


@pytest.fixture
def store(charades_shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    for name, value in (("root", charades_shards), ("head", 403), ("status", 0), ("signature", SIGNATURE)):
        monkeypatch.setattr(Store, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


FAST = ReadSettings(timeout_s=3)
VIEW = {"frames": 4, "stride": 1, "size": 24, "scale": (24, 32), "batch_size": 4, "num_workers": 0}


@pytest.mark.parametrize("query", ["", f"?{SIGNATURE}"])
@pytest.mark.parametrize("head", [403, 405, 404, 501])
def test_a_shard_whose_head_is_refused(store: str, monkeypatch: pytest.MonkeyPatch, query: str, head: int) -> None:
    monkeypatch.setattr(Store, "head", head)
    monkeypatch.setattr(Store, "signature", query.lstrip("?"))
    url = f"http://{store}/charades-test-000000.tar{query}"
    assert storage.stat(url, timeout_s=3) == storage.Stat(
        (Store.root / "charades-test-000000.tar").stat().st_size, '"x"'
    )
    manifest, root = find_shards(url, "any", "val", FAST)
    videos = [read_video(manifest, root, sample) for sample in manifest.samples]
    local, _ = find_shards(str(Store.root / "charades-test-000000.tar"), "any", "val", FAST)
    assert [sample.key for sample in manifest.samples] == [sample.key for sample in local.samples]
    assert videos == [read_video(local, "", sample) for sample in local.samples]
    assert len(list(find_videos(url))) == len(videos)


def test_a_manifest_with_a_token(store: str) -> None:
    url = f"http://{store}/shards/charades-train-manifest.json?{SIGNATURE}"
    data = ClipDataModule(url, "charades", val_split="test", read_timeout_s=3, **VIEW)
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    assert all(batch["failures"] == [] for batch in batches)
    assert len(batches) == len(data.train.samples) // 4 + -(-len(data.val.samples) // 4)
    data.close()
    assert verify(url).findings == []
    names = [video.name for video in find_videos(url)]
    assert names == [sample.key for sample in data.train.samples]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "400 Bad Request: it does not understand the request"),
        (401, "401 Unauthorized: it asks who you are"),
        (403, "403 Forbidden: it refuses access; a signature or token may have expired"),
        (404, r"there is no such object \(404 Not Found\)"),
        (405, "405 Method Not Allowed: it does not allow such requests"),
        (410, r"there is no such object any more \(410 Gone\)"),
        (418, "418 I'm a Teapot"),
        (799, "the server answered 799"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_refusals_are_one_line_of_words(
    store: str, monkeypatch: pytest.MonkeyPatch, status: int, words: str, scheme: str
) -> None:
    monkeypatch.setattr(Store, "status", status)
    monkeypatch.setattr(Store, "head", status)
    url = f"http://{store}/a.tar" if scheme == "http" else "s3://bucket/a.tar"
    with s3_at(store):
        for read in (
            lambda: storage.read_bytes(url, limits.SHARD, timeout_s=0.6),
            lambda: storage.read_range(url, 0, 10, timeout_s=0.6),
            lambda: storage.stat(url, timeout_s=0.6),
        ):
            with pytest.raises(OSError, match=words) as caught:
                read()
            assert "\n" not in str(caught.value)
            assert "Error>" not in str(caught.value)
        with pytest.raises(UserError) as told:
            find_shards(url, "any", "train", ReadSettings(timeout_s=0.6))
        assert str(told.value).count(url) <= 2
        assert "\n" not in str(told.value)


def test_an_object_of_no_bytes_and_one_without_a_length(store: str, tmp_path: Path) -> None:
    Store.root = tmp_path
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(UserError, match="without an end mark"):
        find_shards(f"http://{store}/empty.tar?{SIGNATURE}", "any", "train", FAST)


@pytest.mark.parametrize("kind", ["refused", "unknown", "s3"])
def test_a_server_that_nobody_answers_for_is_given_up_soon_before_a_run_reads(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With a clock that goes on only in the pauses: ten seconds for what a run begins with, forty for its samples."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    clock = [0.0]
    monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=lambda: sum(clock), sleep=clock.append))
    host = address if kind == "refused" else "no-such-host.invalid"
    url = "s3://bucket/x-manifest.json" if kind == "s3" else f"http://{host}/x-manifest.json"
    with s3_at(address):
        for read, least, most in (
            (lambda: storage.read_bytes(url, limits.MANIFEST), 4, 10),
            (lambda: storage.stat(url), 4, 10),
            (lambda: storage.read_range(url, 0, 10), 34, 40),
        ):
            clock[:] = []
            with pytest.raises(storage.StorageError, match=r"nobody answers there|its name is not known here"):
                read()
            assert least < sum(clock) <= most


@pytest.mark.parametrize("mode", ["plain", "nohead", "nohead405", "redirect", "norange", "chunked"])
def test_servers_that_people_met(charades_shards: Path, tmp_path: Path, mode: str) -> None:
    """Signed addresses at a server of each kind give the samples that the file has."""
    script = Path(__file__).resolve().parents[4] / "shared" / "cases" / "data" / "presigned_url" / "srv.py"
    if not script.is_file():
        pytest.skip(f"no {script}")
    (tmp_path / "h").mkdir()
    (tmp_path / "f").symlink_to(charades_shards)
    (tmp_path / "srv.py").write_text(script.read_text().replace("HERE", str(tmp_path)))
    port = free_port()
    with server_process([sys.executable, str(tmp_path / "srv.py"), mode, str(port)], port) as address:
        url = f"http://{address}/charades-test-000000.tar?X-Amz-Signature=abc%2Fdef&x=1"
        found = find_shards(url, "kinetics", "train", FAST)
        local = find_shards(str(charades_shards / "charades-test-000000.tar"), "kinetics", "train", FAST)
        assert len(found.manifest.samples) == len(local.manifest.samples) > 1
        for ours, theirs in zip(found.manifest.samples, local.manifest.samples, strict=True):
            assert ours.key == theirs.key
            assert read_video(*found, ours, FAST) == read_video(*local, theirs)
