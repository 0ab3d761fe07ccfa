"""The videos to look at, wherever they are: files, folders, prepared shards, tar files of anybody's."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nlnet import limits, reading
from nlnet.data.batches.clips import read_video
from nlnet.data.media.suffixes import VIDEO_FILES, VIDEO_MEMBERS
from nlnet.data.media.times import Times
from nlnet.data.shards import storage
from nlnet.data.shards.find import MANIFEST, folder_of, is_pattern
from nlnet.data.shards.index import expand
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.storage import RangesUnsupported
from nlnet.data.shards.tar import Member, TarError, walk
from nlnet.errors import UserError

_AT_ONCE = 64 << 20  # bytes of a remote tar that come sooner in one request than header by header


class Input(NamedTuple):
    """A video by its name, and how to get its bytes: raises OSError or nlnet.data.shards.reader.SampleError. `times`
    are those of a prepared video in the file that it was made from."""

    name: str
    read: Callable[[], bytes]
    times: Times | None = None


def find_videos(source: str, split: str | None = None) -> Iterator[Input]:
    """The videos of `source`: one file; those in a folder and all its folders, by name; the samples of prepared shards
    in a folder or at a URL, of one `split` or of all; or those in the tar files that a pattern with braces names.

    Raises UserError where there is nothing of the kind.
    """
    if is_pattern(source):
        return _in_tars(source)
    if (folder := folder_of(source)) != source:
        return _in_shards(folder, [source.partition("?")[0].rpartition("/")[2]], split)
    if names := _manifests(source):
        return _in_shards(source, names, split)
    path = Path(source).expanduser()
    if path.is_file():
        return iter([Input(path.name, partial(reading.read_bytes, path, limits.SAMPLE))])
    if not path.is_dir():
        raise UserError(f"source={source}: there is no such file or folder")
    there = sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in there if file.suffix.lower() in VIDEO_FILES]
    if not files:
        others = f"; it holds {there[0].name}" if there else ""
        raise UserError(f"source={source}: no video ({', '.join(VIDEO_MEMBERS)}) and no shards in this folder{others}")
    return (Input(str(file.relative_to(path)), partial(reading.read_bytes, file, limits.SAMPLE)) for file in files)


def _manifests(source: str) -> list[str]:
    if not storage.is_remote(source) and not Path(source).is_dir():
        return []
    try:
        return storage.list_folder(source, MANIFEST)
    except OSError as error:
        raise UserError(f"source={source}: cannot be read: {error}") from error


def _in_shards(source: str, names: list[str], split: str | None) -> Iterator[Input]:
    urls = [storage.join(source, name) for name in names]
    try:
        manifests = [Manifest.from_json(storage.read_bytes(url, limits.MANIFEST), url) for url in urls]
    except OSError as error:
        raise UserError(f"source={source}: cannot be read: {error}") from error
    chosen = [manifest for manifest in manifests if split in (None, manifest.split)]
    if not chosen:
        raise UserError(f"split={split}: {source} has {', '.join(sorted(m.split for m in manifests))}")
    return (_sample(manifest, source, sample) for manifest in chosen for sample in manifest.samples)


def _sample(manifest: Manifest, root: str, sample: Sample) -> Input:
    return Input(sample.key, lambda: read_video(manifest, root, sample), sample.times)


def _in_tars(pattern: str) -> Iterator[Input]:
    for url in expand(pattern):
        try:
            yield from _in_tar(url)
        except (OSError, EOFError, TarError) as error:
            raise UserError(f"source={pattern}: cannot read {url}: {error}") from error


def _in_tar(url: str) -> Iterator[Input]:
    """The videos in a tar file; of a large one nothing else is read, where the server knows ranges."""
    size = storage.stat(url).size
    read: Callable[[int, int], bytes] = partial(storage.read_range, url)
    try:
        read(0, min(1, size))
        at_once = storage.is_remote(url) and size <= _AT_ONCE
    except RangesUnsupported:
        at_once = True
    if at_once:
        whole = storage.read_bytes(url, limits.SHARD)
        size, read = len(whole), lambda offset, length: whole[offset : offset + length]
    for member in walk(read, size, marked=False):
        hidden = member.name.rpartition("/")[2].startswith(".")  # macOS' shadows of files
        if not hidden and member.name.rpartition(".")[2].lower() in VIDEO_MEMBERS:
            yield Input(member.name, partial(_member, read, member))


def _member(read: Callable[[int, int], bytes], member: Member) -> bytes:
    limits.SAMPLE.check(member.size)
    return read(member.offset, member.size)
