"""Web servers that are not trusted: what they say of lengths, where they send one, and who asks them."""

import base64
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

import pytest

from nlnet.data.shards import storage
from nlnet.data.shards.find import is_pattern, load_manifest
from nlnet.data.web import addresses, client
from nlnet.errors import UserError
from nlnet.limits import MANIFEST, Limit, TooLarge

LIMIT = Limit("TEST_BYTES", 1000, "bytes", "an answer")
USER = "Basic " + base64.b64encode(b"me@home:a:b/c").decode()


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, str | None]]
    connections: list[int]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name, _, query = self.path.lstrip("/").partition("?")
        self.connections.append(self.client_address[1])
        self.seen.append((self.command, self.path, self.headers.get("Authorization")))
        try:
            getattr(self, name.partition(".")[0].partition("/")[0], self.missing)(query)
        except OSError:  # the client has gone
            self.close_connection = True

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for header, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def missing(self, _: str) -> None:
        self.answer(404, b"none")

    def tebibyte(self, _: str) -> None:
        self.answer(200, b"{}", Content_Length=str(1 << 40))

    def endless(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    def drip(self, _: str) -> None:
        self.answer(200, b"", Content_Length="900")
        for _k in range(900):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def slowhead(self, _: str) -> None:
        for letter in b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 900:
            self.wfile.write(bytes([letter]))
            time.sleep(0.05)

    def more(self, _: str) -> None:
        self.answer(206, bytes(5000), Content_Range="bytes 0-9/5000")

    def other(self, _: str) -> None:
        self.answer(206, bytes(10), Content_Range="bytes 7-16/5000")

    def to(self, query: str) -> None:
        self.answer(302, b"", Location=unquote(query))

    def good(self, _: str) -> None:
        self.answer(200, b"good")

    def last(self, _: str) -> None:
        """Closes the connection without a word beforehand, as after a time of silence."""
        self.answer(200, b"last")
        self.close_connection = True

    def private(self, _: str) -> None:
        known = self.headers.get("Authorization") == USER
        self.answer(200 if known else 401, b"for you" if known else b"")

    def signed(self, query: str) -> None:
        self.answer(200 if query == "X-Amz-Signature=a%2Fb" else 403, b"signed")


@pytest.fixture
def server() -> Iterator[str]:
    """Its "host:port", at every address of this machine."""
    Server.seen, Server.connections = [], []
    running = ThreadingHTTPServer(("0.0.0.0", 0), Server)
    running.daemon_threads = True
    Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def read(address: str, path: str, limit: Limit = LIMIT, seconds: float = 1.5) -> bytes:
    return storage.read_bytes(f"http://{address}/{path}", limit, timeout_s=seconds)


def test_no_more_is_read_than_the_limit(server: str) -> None:
    with pytest.raises(TooLarge, match=r"tebibyte: an answer of 1,099,511,627,776 bytes, at most 1,000 are allowed"):
        read(server, "tebibyte")
    with pytest.raises(TooLarge, match="an answer of more than 1,000 bytes"):
        read(server, "endless")
    with pytest.raises(UserError, match=f"set {MANIFEST.variable}=1099511627776"):
        load_manifest(f"http://{server}/tebibyte", "x", "train")


@pytest.mark.parametrize("path", ["drip", "slowhead"])
def test_bytes_now_and_then_do_not_keep_a_reader(server: str, path: str) -> None:
    began = time.monotonic()
    with pytest.raises(storage.StorageError, match="timed out"):
        read(server, path)
    assert time.monotonic() - began < 3


def test_a_range_is_the_one_that_was_asked_for(server: str) -> None:
    with pytest.raises(storage.StorageError, match="more than the 10 bytes came"):
        storage.read_range(f"http://{server}/more", 0, 10, timeout_s=1.5)
    with pytest.raises(storage.StorageError, match="another range"):
        storage.read_range(f"http://{server}/other", 0, 10, timeout_s=1.5)


def test_the_user_of_a_url_is_sent_and_not_shown(server: str) -> None:
    assert read(f"me%40home:a%3Ab%2Fc@{server}", "private") == b"for you"
    with pytest.raises(storage.StorageError) as refused:
        read(f"me:secret@{server}", "private")
    assert "401" in str(refused.value)


def test_a_signature_is_sent_with_every_name(server: str) -> None:
    url = f"http://{server}/signed.tar?X-Amz-Signature=a%2Fb"
    assert storage.read_bytes(url, LIMIT) == b"signed"
    assert storage.stat(url).size == 6
    assert is_pattern(url)
    assert storage.join("https://h/a/?sig=x", "b.tar") == "https://h/a/b.tar?sig=x"
    assert storage.join("s3://bucket/a?b", "c.tar") == "s3://bucket/a?b/c.tar"


def test_redirects_within_a_network_are_followed_without_the_user(server: str) -> None:
    assert read(server, f"to?http://{server}/good") == b"good"
    assert read(server, "to?/good") == b"good"
    other = server.replace("127.0.0.1", "127.0.0.2")
    assert read(f"me:pw@{server}", f"to?http://{other}/good") == b"good"
    assert Server.seen[-2][2] is not None
    assert Server.seen[-1] == ("GET", "/good", None)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "s3://bucket/x", "data:,x"]
)
def test_redirects_to_what_is_no_web_address_are_refused(server: str, target: str) -> None:
    with pytest.raises(storage.StorageError, match=r"redirects to .*no web address; tried 1 times"):
        read(server, f"to?{target}")


def test_a_public_server_leads_to_no_address_of_this_network(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.2 stands for an address of the internet."""
    port = server.partition(":")[2]

    def is_global(address: str) -> bool:
        return address == "127.0.0.2"

    monkeypatch.setattr(addresses, "is_global", is_global)
    monkeypatch.setattr(client, "is_global", is_global)
    public = f"127.0.0.2:{port}"
    assert read(public, f"to?http://{public}/good") == b"good"
    assert read(server, f"to?http://{server}/good") == b"good"
    names = ["127.0.0.1", "127.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001"]
    for name in names:
        Server.seen.clear()
        with pytest.raises(storage.StorageError, match=r"a public server redirects to .*this machine or its network"):
            read(public, f"to?http://{name}:{port}/good")
        assert [path for _, path, _ in Server.seen] == [f"/to?http://{name}:{port}/good"]
    # a name that is public when it is looked at and is not when it is gone to
    monkeypatch.setattr(client, "is_public", lambda parts: True)
    with pytest.raises(storage.StorageError, match=r"localhost leads to .*, which is not public"):
        read(public, f"to?http://localhost:{port}/good")
    assert Server.seen[-1][1] == f"/to?http://localhost:{port}/good"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1", "fe80::1",
     "fc00::1", "::ffff:169.254.169.254", "::ffff:10.0.0.1"],
)  # fmt: skip
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not addresses.is_global(address)


def test_a_connection_is_kept_and_opened_anew_where_the_server_has_closed_it(server: str) -> None:
    for _ in range(5):
        assert read(server, "good") == b"good"
    assert len(set(Server.connections)) == 1
    assert read(server, "last") == b"last"
    assert read(server, "good") == b"good"
    assert len(set(Server.connections)) == 2
