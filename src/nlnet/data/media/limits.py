"""What a video may claim. Checked before anything is allocated for the claim: shards come from strangers.

FFmpeg believes an MP4's tables: one that says "a billion samples of one byte" fits in 20 bytes and costs 24 GB. So the
counts in the tables are read here first. Sizes of pictures are FFmpeg's own business (its option `max_pixels`).
"""

import mmap
import re
from collections.abc import Iterator

import numpy as np

from nlnet import limits

# Table -> bytes between its name and its number of entries. In `stts` and `ctts` every entry is a run of samples.
_TABLES = {b"stsz": 8, b"stz2": 8, b"stts": 4, b"ctts": 4, b"stss": 4, b"stsc": 4, b"stco": 4, b"co64": 4, b"trun": 4}
_NAMES = re.compile(b"|".join(_TABLES))
_RUNS = (b"stts", b"ctts")


def excess(data: bytes | mmap.mmap) -> str | None:
    """What an MP4 claims beyond `nlnet.limits.FRAMES`, in words; None where it claims nothing absurd or is no MP4.

    Looks at the tables wherever they stand outside the pictures (`mdat`), since FFmpeg does not mind where they are.
    """
    if data[4:8] not in (b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot"):
        return None
    for begin, end in _headers(data):
        header = data[begin:end]
        if b"cmov" in header:
            return "a compressed header"
        for match in _NAMES.finditer(header):
            claimed = _claim(header, match.group(), match.end())
            if claimed > limits.FRAMES.most:
                return f"{claimed:,} entries in {match.group().decode()}"
    return None


def _headers(data: bytes | mmap.mmap) -> Iterator[tuple[int, int]]:
    """The ranges of everything at the top level that is not `mdat`."""
    begin, total = 0, len(data)
    while begin + 8 <= total:
        size, head = int.from_bytes(data[begin : begin + 4]), 8
        if size == 1:
            size, head = int.from_bytes(data[begin + 8 : begin + 16]), 16
        elif size == 0:
            size = total - begin
        if size < head:  # not a box: whatever follows is a header to be looked at
            yield begin, total
            return
        if data[begin + 4 : begin + 8] != b"mdat":
            yield begin, min(begin + size, total)
        begin += size


def _claim(header: bytes, name: bytes, at: int) -> int:
    start = at + _TABLES[name]
    count = int.from_bytes(header[start : start + 4])
    if name not in _RUNS or count > limits.FRAMES.most:
        return count
    runs = header[start + 4 : start + 4 + 8 * count]
    pairs = np.frombuffer(runs[: len(runs) // 8 * 8], ">u4").reshape(-1, 2)
    return int(pairs[:, 0].sum(dtype=np.int64))
