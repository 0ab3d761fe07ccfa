"""From what `data.shards` says to a manifest, and to where its shards are."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from nlnet import limits
from nlnet.data.shards import storage
from nlnet.data.shards.cache import PIPE
from nlnet.data.shards.index import expand, index
from nlnet.data.shards.manifest import Manifest, joined, manifest_name
from nlnet.data.shards.source import DEFAULTS, ReadSettings, shard_urls
from nlnet.errors import UserError

MANIFEST = "-manifest.json"
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Found(NamedTuple):
    """A split: its manifest, and the folder or prefix its shards are in ("" where their names are whole URLs)."""

    manifest: Manifest
    root: str


def find_shards(shards: str, dataset: str, split: str, settings: ReadSettings) -> Found:
    """The split in a folder or prefix of prepared shards, or the foreign shards that a pattern names.

    A pattern ends in `.tar` and may have braces, `train-{000000..000099}.tar`, and where files can be listed also
    `*` in its last part (what ends in `.tar.gz` and the like is one, too, and is to be unpacked first); or it is a
    `pipe:` command, with braces. Raises UserError.
    """
    if not is_pattern(shards):
        folder = folder_of(shards)
        return Found(load_manifest(folder, dataset, split, settings), folder)
    urls = [url for pattern in expand(shards) for url in _listed(pattern, settings)]
    if not urls:
        raise UserError(f"data.shards={shards}: no file matches")
    return Found(index(urls, dataset, split, settings), "")


def find_splits(shards: str, dataset: str, splits: str | Sequence[str], settings: ReadSettings) -> Found:
    """One split, or several as one (`nlnet.data.shards.manifest.joined`). Raises UserError."""
    names = [splits] if isinstance(splits, str) else list(splits)
    if not names:
        raise UserError("data.train_split=[]: name at least one split")
    if len(names) > 1 and is_pattern(shards):
        raise UserError(
            f"data.train_split=[{', '.join(names)}]: data.shards={shards} names the files themselves; name those of all"
            " splits there, with braces, and one split"
        )
    found = [find_shards(shards, dataset, name, settings) for name in names]
    return Found(joined([manifest for manifest, _ in found]), found[0].root)


def is_pattern(shards: str) -> bool:
    """Whether `shards` names tar files rather than the place of a manifest."""
    place = shards.partition("?")[0] if storage.is_web(shards) else shards
    return shards.startswith(PIPE) or place.endswith(_TARS)


def folder_of(shards: str) -> str:
    """The folder or prefix of a manifest that is named itself; anything else as it is."""
    place, mark, query = shards.partition("?") if storage.is_web(shards) else (shards, "", "")
    if not place.endswith(MANIFEST):
        return shards
    return f"{place.rpartition('/')[0] or '.'}{mark}{query}"


def load_manifest(shards: str, dataset: str, split: str, settings: ReadSettings = DEFAULTS) -> Manifest:
    """The manifest of one split, with its local shards looked at: present, and of the size that the manifest says."""
    url = storage.join(shards, manifest_name(dataset, split))
    try:
        manifest = Manifest.from_json(storage.read_bytes(url, limits.MANIFEST, timeout_s=settings.timeout_s), url)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"data.shards={shards}: {_what_is_there(shards, dataset, split, settings)}") from None
    except OSError as error:
        raise UserError(f"data.shards={shards}: cannot read {url}: {error}") from error
    if not manifest.samples:
        raise UserError(f"{url}: holds no samples; prepare the shards again with readable videos")
    urls = shard_urls(shards, manifest.shards, allow_pipe=settings.allow_pipe)
    if not storage.is_remote(shards):
        for path, shard in zip(map(Path, urls), manifest.shards, strict=True):
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise UserError(f"{path}: {found}, the manifest says {shard.bytes}; prepare or copy it again")
    return manifest


def _listed(pattern: str, settings: ReadSettings) -> list[str]:
    folder, _, name = pattern.rpartition("/")
    if "*" not in name or pattern.startswith(PIPE):
        return [pattern]
    names = storage.list_folder(folder or ".", "", timeout_s=settings.timeout_s)
    return [storage.join(folder or ".", found) for found in names if fnmatch(found, name)]


def _what_is_there(shards: str, dataset: str, split: str, settings: ReadSettings) -> str:
    wanted = manifest_name(dataset, split)
    fix = "make shards with: python src/prepare.py dataset=... source=... out=..."
    if not storage.is_remote(shards) and not Path(shards).is_dir():
        return f"there is no such folder; {fix}"
    try:
        names = storage.list_folder(shards, "", timeout_s=settings.timeout_s)
    except (OSError, UserError):  # a web server, or one that does not let us look
        return f"there is no {wanted}; {fix}"
    manifests = [name for name in names if name.endswith("-manifest.json")]
    if manifests:
        return f"there is no {wanted}, but {', '.join(manifests)}; set data.dataset, data.train_split or data.val_split"
    if any(name.endswith(".tar") for name in names):
        # Not indexed unasked: a preparation that is under way, or was killed, looks like this too.
        return (
            f"there are shards but no {wanted} beside them; {fix}. WebDataset shards from elsewhere are used as they"
            f" are with data.shards='{shards}/NAME-{{000000..000009}}.tar' and data.val_shards likewise"
        )
    return f"the folder holds no shards; {fix}"
