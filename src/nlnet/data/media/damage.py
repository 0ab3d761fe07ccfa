"""Whether a file is whole, told from the lengths that its container states: MP4 and its kin, Matroska and WebM.

A demuxer reads on as far as it can. Of a Matroska file that was cut short, or has a hole, it makes a shorter video
without a word, and of an MP4 an error: here both are the same.
"""

import mmap
from pathlib import Path
from typing import NamedTuple

Data = bytes | mmap.mmap

_BOXES = (b"mdat", b"moov", b"moof")
_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_VOID, _CRC = 0xEC, 0xBF
# SeekHead, Info, Tracks, Cluster, Cues, Attachments, Chapters, Tags
_TOP = {0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, _VOID, _CRC}
# Timestamp, SilentTracks, Position, PrevSize, SimpleBlock, BlockGroup, EncryptedBlock
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, _VOID, _CRC}


class Damage(NamedTuple):
    """The first byte that is missing or wrong, and what is wrong there."""

    position: int
    words: str


def find_damage(source: bytes | Path) -> Damage | None:
    """What is wrong with the outer structure of a file; None for one that is whole, and for other containers.

    Raises OSError.
    """
    if isinstance(source, bytes):
        return _find(source)
    if not source.stat().st_size:
        return None
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return _find(mapped)


def _find(data: Data) -> Damage | None:
    if int.from_bytes(data[:4]) == _EBML:
        return _in_matroska(data)
    return _in_boxes(data) if data[4:8] in (b"ftyp", b"styp", *_BOXES) else None


def _in_boxes(data: Data) -> Damage | None:
    at, total = 0, len(data)
    while at + 8 <= total:
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        if kind in _BOXES and at + size > total:
            return _short(total, at + size)
        if size < 8:  # the rest of the file, or something that is no box
            return None
        at += size
    return None


def _short(total: int, claimed: int) -> Damage:
    return Damage(total, f"it ends after {total:,} of {claimed:,} bytes")


def _in_matroska(data: Data) -> Damage | None:
    at, total, known = 0, len(data), {_EBML, _SEGMENT, _VOID}
    last = total
    while at < last:
        kind, size, begin = _element(data, at)
        if kind not in known:
            return Damage(at, f"at byte {at:,} of {total:,} is something else than an element of Matroska")
        if size is not None and begin + size > total:
            return _short(total, begin + size)
        if kind == _SEGMENT:
            known = {*known, *_TOP}
            last = total if size is None else begin + size  # what follows belongs to nothing
        elif kind == _CLUSTER:
            known = {*known, *_IN_CLUSTER}
        # Into the segment and its clusters, whose lengths may be unknown; past everything else.
        at = begin if kind in (_SEGMENT, _CLUSTER) else begin + (size or 0)
    return None


def _element(data: Data, at: int) -> tuple[int, int | None, int]:
    """The name of the element there, its length, None for an unknown one, and where its content begins."""
    first = data[at]
    length = 9 - first.bit_length()
    if not 1 <= length <= 4:
        return 0, None, at + 1
    begin = at + length
    name = int.from_bytes(data[at:begin])
    octets = 9 - data[begin].bit_length() if begin < len(data) else 1
    if octets > 8:
        return 0, None, begin
    size = int.from_bytes(data[begin : begin + octets]) & (1 << 7 * octets) - 1
    return name, None if size == (1 << 7 * octets) - 1 else size, begin + octets
