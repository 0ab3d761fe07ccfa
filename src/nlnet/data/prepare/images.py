"""Which file is the image of a record: the one that its `file_name` says, and never another."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from posixpath import normpath

from nlnet.data.annotations.records import Record
from nlnet.data.media.images import naming
from nlnet.data.media.suffixes import NEVER_READ, READ_ALWAYS, format_of
from nlnet.data.prepare.videos import plain

Reason = tuple[str, str]
"""Why there is no file: a short phrase to count by, and what was found."""

_OF_IMAGES = ("images", "image", "imgs", "img", "jpegimages", "rgb", "photos", "data")

_ALSO = {"val": ("valid", "validation"), "train": ("training",)}


class ImageFiles:
    """The files below a folder, by their names.

    A name with folders is looked for as a path below the root, then as the end of one; failing that, and without
    folders, in the folder of the record's split; and then anywhere, if one file alone has it. A file that is another
    record's by its path or its folder is no stand-in, nor is one in the folder of another split, unless no image of the
    split lies in a folder of its own.

    Args:
        root: the folder, searched with all its folders.
        out: a folder that is left out.
        formats: of images that are read.
    """

    def __init__(self, root: Path, out: Path | str, formats: Sequence[str] = READ_ALWAYS) -> None:
        self.root, self.formats = root, formats
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._folders: set[str] = set()  # with all that their paths end in
        for folder, names in _walk(root, Path(out)):
            parts = [part for part in folder.split("/") if part]
            self._folders.update("/".join(parts[k:]) for k in range(len(parts)))
            for name in names:
                path = f"{folder}/{name}" if folder else name
                self._by_name.setdefault(name, []).append(path)
                self._by_stem.setdefault(PurePosixPath(name).stem.casefold(), []).append(path)

    def find(self, records: Sequence[Record]) -> list[Path | Reason]:
        """The file of each record, or why there is none."""
        homes: dict[str, set[str]] = {}
        for record in records:
            homes.setdefault(record.split, set()).update(map(plain, _homes(record)))
        at_home = {r.split for r in records if any(homes[r.split] & _parts(path) for path in self._named(r))}
        strange = {split: set[str]() for split in homes}
        for split in at_home:  # has images of its own, so those in the folders of others are not meant
            strange[split] = set().union(*homes.values()) - homes[split]
        found = [self._of(record, strange[record.split]) for record in records]
        users = Counter((r.split, path) for r, (path, _) in zip(records, found, strict=True))
        owned = {(r.split, path) for r, (path, sure) in zip(records, found, strict=True) if sure}
        return [
            self._chosen(r, path, sure or (users[r.split, path] == 1 and (r.split, path) not in owned))
            for r, (path, sure) in zip(records, found, strict=True)
        ]

    def _of(self, record: Record, strange: set[str]) -> tuple[str, bool]:
        """(the path, "" for none, several with a newline between; whether it is the record's whoever names it too)."""
        name, paths = _path(record), self._named(record)
        folder = name.rpartition("/")[0]
        if name in paths:
            return name, True
        whole = [path for path in paths if folder and path.endswith(f"/{name}")]
        if len(whole) == 1:
            return whole[0], True
        if folder and not whole and folder in self._folders:  # it is there, and does not have the file
            return "", False
        for home in _homes(record):
            if at_home := [path for path in whole or paths if plain(home) in _parts(path)]:
                best = _of_images(_nearest(at_home, home))
                return "\n".join(best), len(best) == 1
        left = [path for path in whole or paths if not strange & _parts(path)]
        return "\n".join(_of_images(left)), False

    def _named(self, record: Record) -> list[str]:
        return self._by_name.get(_path(record).rpartition("/")[2], [])

    def _chosen(self, record: Record, path: str, its: bool) -> Path | Reason:
        if not path:
            return "missing", f"no {_shown(record)} in {self.root}{self._like(record)}"
        if "\n" in path:
            first, second, *_ = path.split("\n")
            return "ambiguous", f"it could be {first} or {second}; write the folder in its file_name"
        if not its:
            return "missing", f"the only file of that name is {self.root / path}, which other records name, too"
        suffix = PurePosixPath(path).suffix.lower()
        kind = format_of(suffix)
        if suffix in NEVER_READ:
            return "format", f"{suffix} files are not read; convert it to JPEG or PNG"
        if kind and kind not in self.formats:
            return "format", f"{suffix} files are not read unasked; {naming(kind)}"
        return self.root / path

    def _like(self, record: Record) -> str:
        """What to say of files with almost that name."""
        stem = PurePosixPath(record.video.replace("\\", "/")).stem.casefold()
        return f"; there is {like[0]}, another name" if (like := self._by_stem.get(stem)) else ""


def in_both(files: Iterable[tuple[str, Path]]) -> list[str]:
    """A line for each pair of splits that have images in common; `files` are (split, path)."""
    splits: dict[Path, list[str]] = {}
    for split, path in files:
        splits.setdefault(path, []).append(split)
    pairs = Counter(tuple(named) for named in splits.values() if len(named) > 1)
    return [f"{count:,} images are in {' and '.join(named)}" for named, count in pairs.items()]


def _walk(root: Path, out: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder below the root with slashes, names of its files); links are followed, but to no folder twice."""
    seen = {out.resolve()}
    for parent, folders, names in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(folders):
            place = (Path(parent) / name).resolve()
            if place not in seen:
                kept.append(name)
                seen.add(place)
        folders[:] = kept
        there = [name for name in sorted(names) if (Path(parent) / name).is_file()]
        yield Path(parent).relative_to(root).as_posix().removeprefix("."), there


def _path(record: Record) -> str:
    return normpath(record.video.replace("\\", "/")).lstrip("/")


def _homes(record: Record) -> tuple[str, ...]:
    """The folders in which its image is looked for, the most telling first."""
    return tuple(dict.fromkeys((record.folder or record.split, record.split, *_ALSO.get(record.split, ()))))


def _nearest(paths: list[str], home: str) -> list[str]:
    """Of several files in a split's folder the one in the topmost such folder; or else those directly in one."""
    if len(paths) > 1:
        direct = [path for path in paths if plain(path.split("/")[-2]) == plain(home)]
        paths = [path for path in direct if path.count("/") == 1] or direct or paths
    return paths


def _of_images(paths: list[str]) -> list[str]:
    """Of several files with one name those in a folder of images, beside which masks and maps lie in others."""
    if len(paths) > 1:
        paths = [path for path in paths if _parts(path) & set(_OF_IMAGES)] or paths
    return paths


def _parts(path: str) -> set[str]:
    return {plain(part) for part in path.split("/")[:-1]}


def _shown(record: Record) -> str:
    return record.video if len(record.video) < 200 else f"{record.video[:200]}..."
