"""Bytes from anywhere: a local path, `s3://`, `gs://`, `az://`, `http(s)://`, whole or by range.

Remote reads go through obstore, configured by each service's usual environment variables (`AWS_ENDPOINT_URL`,
`AWS_REGION`, `AWS_ACCESS_KEY_ID`, ...).
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nlnet.errors import UserError

SCHEMES = ("s3", "gs", "az", "http", "https")


def is_remote(url: str) -> bool:
    """Whether `url` names an object store or a web server rather than a local path."""
    return "://" in url and not url.startswith("file://")


def join(root: str, name: str) -> str:
    """`name` inside the folder or prefix `root`."""
    return f"{root.rstrip('/')}/{name}"


def read_bytes(url: str) -> bytes:
    """The whole object or file. Raises FileNotFoundError where there is none."""
    if not is_remote(url):
        return Path(url.removeprefix("file://")).read_bytes()
    import obstore

    store, path = _locate(url)
    return bytes(obstore.get(store, path).bytes())


def read_range(url: str, offset: int, length: int) -> bytes:
    """Bytes `offset` to `offset + length`. Raises EOFError where the object ends before."""
    if is_remote(url):
        import obstore

        store, path = _locate(url)
        data = bytes(obstore.get_range(store, path, start=offset, length=length))
    else:
        with open(url.removeprefix("file://"), "rb") as file:
            file.seek(offset)
            data = file.read(length)
    if len(data) != length:
        raise EOFError(f"{url}: wanted {length} bytes at {offset}, got {len(data)}")
    return data


def _locate(url: str) -> tuple[Any, str]:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise UserError(f"{url}: unknown scheme {parts.scheme!r}; known: a local path, {', '.join(SCHEMES)}")
    # One client per process: a client shared over a fork would wait for threads that the child does not have.
    return _store(f"{parts.scheme}://{parts.netloc}", os.getpid()), parts.path.lstrip("/")


@lru_cache
def _store(root: str, _pid: int) -> Any:
    from obstore.store import from_url

    plain_http = root.startswith("http://") or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(root, client_options={"allow_http": True} if plain_http else None)
