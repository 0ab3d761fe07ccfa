"""Where prepared shards go: a folder, or a prefix of an object store. A name appears there whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlnet.data.shards.storage import is_remote
from nlnet.errors import UserError
from nlnet.saving import write_bytes

SCHEMES = ("s3", "gs", "az")


class Folder:
    """A local folder, made when it is first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes | None:
        """The file, or None if there is none."""
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def size(self, name: str) -> int | None:
        """Its bytes, or None if there is no such file."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def names(self) -> list[str]:
        """What lies directly in it."""
        return sorted(path.name for path in self.root.iterdir()) if self.root.is_dir() else []

    def write(self, name: str, data: bytes) -> None:
        """Puts `data` there under `name`."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)

    @contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        """A local path to write a file to that becomes `name` afterwards; nothing does if nothing was written."""
        yield self.root / name

    def clear(self, folder: str) -> None:
        """Removes what lies in `folder`."""
        shutil.rmtree(self.root / folder, ignore_errors=True)

    @contextmanager
    def alone(self, number: int, count: int) -> Iterator[None]:
        """Keeps a second process out that would make part `number` of `count`, or everything (1 of 1).

        The locks end with this process, however it ends.
        """
        folder = self.root / ".parts"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as all_parts, open(folder / f"lock-{number}-{count}", "w") as this_part:
            try:
                fcntl.flock(all_parts, (fcntl.LOCK_EX if count == 1 else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                fcntl.flock(this_part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"out={self.root}: another process is writing shards there") from None
            if count == 1:
                for stale in [*self.root.glob(".*.tmp"), *folder.glob(".*.tmp")]:
                    stale.unlink()
            yield


class Bucket:
    """A prefix of an object store: `s3://`, `gs://` or `az://`, configured by the usual environment variables.

    Large files go up in several parts and are committed with the last one. There are no locks: two processes that make
    the same part write the same bytes.
    """

    def __init__(self, url: str) -> None:
        from obstore.store import from_url

        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        options: Any = {"timeout": "1h", **({"allow_http": True} if plain else {})}
        self.url = url.rstrip("/")
        self.store: Any = from_url(self.url, client_options=options)

    def read(self, name: str) -> bytes | None:
        """The object, or None if there is none."""
        import obstore

        try:
            return bytes(obstore.get(self.store, name).bytes())
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        """Its bytes, or None if there is no such object."""
        import obstore

        try:
            return int(obstore.head(self.store, name)["size"])
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """What lies directly under the prefix."""
        import obstore

        return sorted(entry["path"] for entry in obstore.list_with_delimiter(self.store)["objects"])

    def write(self, name: str, data: bytes) -> None:
        """Puts `data` there under `name`."""
        import obstore

        obstore.put(self.store, name, data)

    @contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        """A local path to write a file to that becomes `name` afterwards; nothing does if nothing was written."""
        import obstore

        with tempfile.TemporaryDirectory(prefix="nlnet-prepare-") as folder:
            path = Path(folder) / name
            yield path
            if path.is_file():
                obstore.put(self.store, name, path)

    def clear(self, folder: str) -> None:
        """Removes what lies under `folder`."""
        import obstore

        paths = [entry["path"] for page in obstore.list(self.store, folder) for entry in page]
        if paths:
            obstore.delete(self.store, paths)

    @contextmanager
    def alone(self, number: int, count: int) -> Iterator[None]:
        """Nothing: see the class."""
        yield


def open_output(out: Path | str) -> Folder | Bucket:
    """The output that `out` names. Raises UserError for an address that cannot be written to."""
    text = str(out)
    if isinstance(out, Path) or not is_remote(text):
        return Folder(Path(text.removeprefix("file://")).expanduser())
    if text.split("://", 1)[0] not in SCHEMES:
        raise UserError(f"out={text}: shards can be written to a folder or to {', '.join(f'{s}://' for s in SCHEMES)}")
    return Bucket(text)


@contextmanager
def writable(out: Path | str) -> Iterator[None]:
    """Turns whatever the disk or the store objects to into a UserError that names `out`."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (OSError, BaseError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise UserError(f"out={out}: cannot write there: {reason}") from error
