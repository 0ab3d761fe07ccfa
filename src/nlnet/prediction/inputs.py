"""The videos to look at, wherever they are: files, folders, prepared shards, tar files of anybody's."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from nlnet.data.batches.clips import read_video
from nlnet.data.media.suffixes import VIDEO_MEMBERS
from nlnet.data.shards import storage
from nlnet.data.shards.find import is_pattern
from nlnet.data.shards.index import expand
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.errors import UserError

MANIFEST = "-manifest.json"


class Input(NamedTuple):
    """A video by its name, and how to get its bytes: raises OSError or nlnet.data.shards.reader.SampleError."""

    name: str
    read: Callable[[], bytes]


def find_videos(source: str, split: str | None = None) -> Iterator[Input]:
    """The videos of `source`: one file; those in a folder and all its folders, by name; the samples of prepared shards
    in a folder or at a URL, of one `split` or of all; or those in the tar files that a pattern with braces names.

    Raises UserError where there is nothing of the kind.
    """
    if is_pattern(source):
        return _in_tars(source)
    if names := _manifests(source):
        return _in_shards(source, names, split)
    path = Path(source).expanduser()
    if path.is_file():
        return iter([Input(path.name, path.read_bytes)])
    if not path.is_dir():
        raise UserError(f"source={source}: there is no such file or folder")
    suffixes = {f".{suffix}" for suffix in VIDEO_MEMBERS}
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    if not files:
        raise UserError(f"source={source}: no video ({', '.join(VIDEO_MEMBERS)}) and no shards in this folder")
    return (Input(str(file.relative_to(path)), file.read_bytes) for file in files)


def _manifests(source: str) -> list[str]:
    if not storage.is_remote(source) and not Path(source).is_dir():
        return []
    try:
        return storage.list_folder(source, MANIFEST)
    except OSError as error:
        raise UserError(f"source={source}: cannot be read: {error}") from error


def _in_shards(source: str, names: list[str], split: str | None) -> Iterator[Input]:
    urls = [storage.join(source, name) for name in names]
    manifests = [Manifest.from_json(storage.read_bytes(url).decode(), url) for url in urls]
    chosen = [manifest for manifest in manifests if split in (None, manifest.split)]
    if not chosen:
        raise UserError(f"split={split}: {source} has {', '.join(sorted(m.split for m in manifests))}")
    return (_sample(manifest, source, sample) for manifest in chosen for sample in manifest.samples)


def _sample(manifest: Manifest, root: str, sample: Sample) -> Input:
    return Input(sample.key, lambda: read_video(manifest, root, sample))


def _in_tars(pattern: str) -> Iterator[Input]:
    for url in expand(pattern):
        try:
            with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(url))) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if file is not None and member.name.rpartition(".")[2].lower() in VIDEO_MEMBERS:
                        yield Input(member.name, file.read)
        except (OSError, tarfile.TarError) as error:
            raise UserError(f"source={pattern}: cannot read {url}: {error}") from error
