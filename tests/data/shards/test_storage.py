"""Which store a URL is read from, and what a store is allowed to take."""

from types import SimpleNamespace

import pytest

from helpers.servers import plain_server, write_certificates
from nlnet import limits
from nlnet.data.shards import storage
from nlnet.errors import UserError


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "false")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    storage._store.cache_clear()
    yield
    storage._store.cache_clear()


@pytest.mark.parametrize(
    ("url", "store"),
    [
        ("s3://bucket/a/b.tar", "S3Store"),
        ("gs://bucket/a/b.tar", "GCSStore"),
        ("az://container/a/b.tar", "AzureStore"),
    ],
)
def test_every_scheme_has_its_store_and_keeps_the_path(url, store):
    found, path = storage._locate(url, 60.0)
    assert type(found).__name__ == store
    assert path == "a/b.tar"
    assert storage.is_remote(url)
    assert storage._locate(f"{url}2", 60.0)[0] is found  # one client, and its connections, for all of a bucket


def test_local_files_and_unknown_schemes(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    traffic = storage.Traffic()
    for url in (str(tmp_path / "a.tar"), f"file://{tmp_path}/a.tar"):
        assert not storage.is_remote(url)
        assert storage.read_range(url, 2, 3, traffic=traffic) == b"234"
        assert storage.stat(url).size == 10
        with pytest.raises(EOFError, match="wanted 5 bytes at 8, got 2"):
            storage.read_range(url, 8, 5)
    assert traffic.take() == (6, 0)
    assert traffic.take() == (0, 0)
    assert storage.list_folder(str(tmp_path), ".tar") == ["a.tar"]
    with pytest.raises(UserError, match=r"ftp://host/a.tar: unknown scheme 'ftp'; known: a local path, s3, gs"):
        storage.read_range("ftp://host/a.tar", 0, 1)
    with pytest.raises(UserError, match="a web server does not list its files"):
        storage.list_folder("https://host/a", ".tar")


@pytest.mark.parametrize("seconds", [0.0, 1.0, 20.0])
def test_pauses_grow_and_the_last_attempt_can_still_end_within_the_limit(monkeypatch, seconds):
    """With a clock of its own: attempts that fail after a third of the limit, the longest that one may take."""
    clock, starts, pauses, limit, traffic = [0.0], [], [], 60.0, storage.Traffic()

    def attempt():
        starts.append(clock[0])
        clock[0] += seconds
        raise TimeoutError("cut")

    def sleep(pause):
        pauses.append(pause)
        clock[0] += pause

    monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    with pytest.raises(storage.StorageError, match=r"a.tar: cut; tried \d+ times in"):
        storage._retry(attempt, "a.tar", limit, traffic)
    assert clock[0] <= limit
    assert starts[-1] + limit * storage.ATTEMPT <= limit
    assert len(starts) == len(pauses) + 1 >= 2
    assert traffic.take() == (0, len(pauses))
    longest = [min(0.1 * 2**k, 5.0) for k in range(len(pauses))]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, longest, strict=True))


def test_https_asks_for_a_certificate_that_the_machine_trusts(tmp_path, monkeypatch):
    pytest.importorskip("cryptography", reason="certificates are made with it")
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    authority, certificate = write_certificates(tmp_path)
    with plain_server(tmp_path, certificate) as address:
        url = f"https://localhost:{address.split(':')[1]}/a.tar"
        with pytest.raises(storage.StorageError, match=r"is not trusted \(UnknownIssuer\); tried 1 times"):
            storage.read_bytes(url, limits.SHARD, timeout_s=3)
        storage._store.cache_clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert storage.read_bytes(url, limits.SHARD, timeout_s=3) == b"0123456789"
