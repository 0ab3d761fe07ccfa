"""Where the files in a tar lie, from its headers alone.

A reader of its own, because shards are not trusted: it never seeks backwards, allocates what a header claims, follows a
link, or takes a tar for whole that ends before its end mark.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from nlnet import limits

BLOCK = 512
_REGULAR, _LONG_NAME, _PAX = b"\0" + b"07", b"L", b"x"
_IGNORED = b"123456gK"  # links, devices, folders, global pax headers, long link names
_LINKS = b"12"
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"(\xb5/\xfd": "unzstd", b"PK\3\4": "unzip"}

Read = Callable[[int, int], bytes]
Skipped = Callable[[str], object]


class TarError(ValueError):
    """Bytes that are not a tar, or not all of one."""


class Member(NamedTuple):
    """One file: the offset of its first header, and the place of its content."""

    name: str
    start: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.offset + -(-self.size // BLOCK) * BLOCK


def walk(read: Read, end: int, *, marked: bool = True, link: Skipped | None = None) -> Iterator[Member]:
    """The regular files of a tar of `end` bytes, of which `read(offset, length)` gives any.

    `marked` asks for the block of zeros that closes a tar; a sample's range within one has none. `link` is told the
    name of each link, which nobody follows. Raises TarError at the first thing that is wrong.
    """
    position = start = 0
    name, size = None, None  # from extended headers before the member's own
    while position < end:
        block = read(position, BLOCK) if position + BLOCK <= end else b""
        if block and not block.strip(b"\0"):
            return
        kind, own_name, own_size = _header(block, position)
        content = position + BLOCK
        length = size if size is not None and kind in _REGULAR else own_size
        if content + length > end:
            raise TarError(f"the member at {position} goes on beyond the end at {end}")
        if kind in (_LONG_NAME, _PAX):
            if length > limits.TAR_HEADER.most:
                raise TarError(str(limits.TAR_HEADER.excess(f"at {position}", length)))
            extended = read(content, length)
            if kind == _LONG_NAME:
                name = _text(extended)
            else:
                name, size = _pax(extended, name, size)
        elif kind in _REGULAR:
            yield Member(name if name is not None else own_name, start, content, length)
        elif kind in _LINKS and link:
            link(name if name is not None else own_name)
        elif kind not in _IGNORED:
            raise TarError(f"a member of type {kind!r} at {position}")
        position = content + -(-length // BLOCK) * BLOCK
        if kind not in (_LONG_NAME, _PAX):
            start, name, size = position, None, None
    if marked:
        raise TarError(f"it ends at {end} without an end mark; it was cut short")


def sample_members(data: bytes, suffixes: Collection[str]) -> dict[str, bytes]:
    """The files of one sample by suffix; of `suffixes` only, others are not looked at. Raises TarError."""
    files = walk(lambda offset, length: data[offset : offset + length], len(data), marked=False)
    found = [(split_name(file.name)[1], file) for file in files]
    return {suffix: data[file.offset : file.offset + file.size] for suffix, file in found if suffix in suffixes}


def split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member by WebDataset's rule: the basename's first dot parts them.

    Two times "" for what WebDataset leaves out: hidden files, such as macOS' `._a.mp4` (in a folder, too, where it
    would not), files without a suffix, and its own `__name__`.
    """
    match = _KEY.fullmatch(name)
    hidden = name.rpartition("/")[2].startswith(".")
    return (match[1], match[2].lower()) if match and not hidden and not _META.match(name) else ("", "")


def _header(block: bytes, position: int) -> tuple[bytes, str, int]:
    """(type, name, size) of a header."""
    if len(block) != BLOCK:
        raise TarError(f"half a header at {position}")
    total = sum(block) - sum(block[148:156]) + 8 * 32
    how = next((how for start, how in _PACKED.items() if position == 0 and block.startswith(start)), None)
    if how:
        raise TarError(f"it is packed, and samples are read by their place in a tar; unpack it with {how}")
    if _number(block[148:156], position) != total:
        raise TarError(f"no tar header at {position}")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    return block[156:157], name, _number(block[124:136], position)


def _number(field: bytes, position: int) -> int:
    """Octal digits, or binary where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") | (field[0] & 0x7F) << 8 * (len(field) - 1)
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise TarError(f"no tar header at {position}") from None


def _pax(records: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """The path and the size among records `length key=value`."""
    while records.strip(b"\0"):
        digits, _, _ = records.partition(b" ")
        if not digits.isdigit() or len(digits) > 20 or not len(digits) + 1 < int(digits) <= len(records):
            raise TarError("a malformed pax header")
        key, _, value = records[len(digits) + 1 : int(digits) - 1].partition(b"=")
        records = records[int(digits) :]
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise TarError("a malformed pax header")
            size = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise TarError("a sparse member")
    return name, size


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
