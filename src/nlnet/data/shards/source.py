"""The shards of a data set as byte ranges, wherever they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nlnet.data.shards import storage
from nlnet.data.shards.cache import PIECE, PIPE, ShardCache, default_folder
from nlnet.data.shards.manifest import Shard
from nlnet.data.shards.storage import RangesUnsupported, Traffic
from nlnet.errors import UserError


@dataclass(frozen=True)
class ReadSettings:
    """How shards are read.

    Args:
        timeout_s: seconds after which a read that keeps failing is given up.
        parallel: requests in flight, per loader process.
        ahead_mb: megabytes that are read ahead of their batch, per loader process.
        cache_dir: folder for whole remote shards; for None only those are kept that cannot be read by range.
        cache_gb: gigabytes that the folder may hold.
        allow_pipe: run the commands in `pipe:` URLs.
    """

    timeout_s: float = storage.TIMEOUT_S
    parallel: int = 8
    ahead_mb: float = 128
    cache_dir: str | None = None
    cache_gb: float = 50
    allow_pipe: bool = False


DEFAULTS = ReadSettings()


class ShardSource:
    """Ranges of shards: straight from the storage, or through the cache where that is asked for or needed."""

    def __init__(self, root: str, shards: Sequence[Shard], settings: ReadSettings) -> None:
        self.shards, self.settings, self.traffic = shards, settings, Traffic()
        self.urls = shard_urls(root, shards, allow_pipe=settings.allow_pipe)
        folder = Path(settings.cache_dir) if settings.cache_dir else default_folder()
        limit = int(settings.cache_gb * 1e9)
        self._cache = ShardCache(folder / "shards", limit, settings.timeout_s, self.traffic)
        self._by_range = not settings.cache_dir
        if settings.cache_dir and shards and max(shard.bytes for shard in shards) > limit:
            largest = max(shards, key=lambda shard: shard.bytes)
            raise UserError(
                f"data.cache_gb={settings.cache_gb:g}: {largest.name} alone has {largest.bytes / 1e9:.3g} GB; raise it"
            )

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Bytes `offset` to `offset + length` of the shard. Raises EOFError and OSError."""
        url = self.urls[shard]
        if not storage.is_remote(url) and not url.startswith(PIPE):
            return self._read_range(url, offset, length)
        if self._by_range and not url.startswith(PIPE):
            try:
                return b"".join(
                    self._read_range(url, at, min(PIECE, offset + length - at))
                    for at in range(offset, offset + length, PIECE)
                )
            except RangesUnsupported:
                self._by_range = False
        whole = self.shards[shard]
        return self._cache.read_range(url, whole.bytes, whole.sha256, offset, length)

    def _read_range(self, url: str, offset: int, length: int) -> bytes:
        return storage.read_range(url, offset, length, timeout_s=self.settings.timeout_s, traffic=self.traffic)


def shard_urls(root: str, shards: Sequence[Shard], *, allow_pipe: bool) -> list[str]:
    """Where the shards are: beside their manifest in `root`, or where their names say for an index with root ""."""
    if not root:
        urls = [shard.name for shard in shards]
    else:
        for shard in shards:
            if "/" in shard.name or shard.name.startswith("."):
                raise UserError(f"{root}: the manifest names a shard {shard.name!r}, which is not a plain file name")
        urls = [storage.join(root, shard.name) for shard in shards]
    for url in urls:
        check_pipe(url, allow_pipe)
    return urls


def check_pipe(url: str, allow_pipe: bool) -> None:
    """Refuse to run a command that stands in a URL, unless that is switched on by name."""
    if url.startswith(PIPE) and not allow_pipe:
        raise UserError(f"{url}: runs a command; read by s3://, gs://, az:// or https://, or set data.allow_pipe=true")
