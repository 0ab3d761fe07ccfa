"""Damaged videos: flipped bits, cuts at the boundaries of MP4 boxes, headers that claim absurd things."""

import io
from collections.abc import Iterator

import av
import numpy as np

TABLES = {b"stsz": 8, b"stts": 4, b"ctts": 4, b"stss": 4, b"stsc": 4, b"stco": 4}
CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta")


def boxes(data: bytes, begin: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(type, begin, end) of all boxes of an MP4, those inside others too."""
    end = len(data) if end is None else end
    while begin + 8 <= end:
        size, kind = int.from_bytes(data[begin : begin + 4]), data[begin + 4 : begin + 8]
        if size < 8:
            return
        yield kind, begin, begin + size
        if kind in CONTAINERS:
            yield from boxes(data, begin + 8, begin + size)
        begin += size


def damaged(data: bytes, number: int) -> bytes:
    """The `number`-th damaged copy of an MP4; the same one for the same arguments."""
    rng = np.random.default_rng((len(data), number))
    found = list(boxes(data))
    kind = number % 5
    if kind == 0:  # cut at a boundary, or a few bytes beside it
        _, begin, end = found[number // 5 % len(found)]
        return data[: max(0, (begin if number % 2 else end) + int(rng.integers(-9, 10)))]
    changed = bytearray(data)
    if kind == 1:  # bits anywhere
        for place in rng.integers(0, len(data), int(rng.integers(1, 40))):
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:  # bytes of a header
        _, begin, end = [box for box in found if box[0] != b"mdat"][int(rng.integers(len(found) - 1))]
        for place in rng.integers(begin, end, int(rng.integers(1, 6))):
            changed[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
    elif kind == 3:  # a number in a header
        _, begin, end = [box for box in found if box[0] != b"mdat"][int(rng.integers(len(found) - 1))]
        place = begin + 4 * int(rng.integers((end - begin) // 4))
        changed[place : place + 4] = int(rng.choice([0, 0x7FFFFFFF, 0xFFFFFFFF, 10**9, 60_000])).to_bytes(4)
    else:  # a stretch of zeros, or of something else altogether
        begin = int(rng.integers(len(data)))
        length = int(rng.integers(1, len(data) - begin + 1))
        filling = b"\0" * length if number % 2 else (b"<html>404 Not Found</html>" * (length // 26 + 1))[:length]
        changed[begin : begin + length] = filling
    return bytes(changed)


def one_picture(width: int, height: int) -> bytes:
    """An MP4 of one black picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(width, height, "yuv420p")))
        container.mux(stream.encode(None))
    return file.getvalue()


def picture_claiming(width: int, height: int) -> bytes:
    """An MP4 of one 64 x 64 picture whose H.264 headers say that it is `width` x `height` (multiples of 16)."""
    data = bytearray(one_picture(64, 64))
    sequence, picture = _sequence_header(width, height), bytes([0x68, 0xCE, 0x38, 0x80])
    headers = len(sequence).to_bytes(2) + sequence + b"\x01" + len(picture).to_bytes(2) + picture
    begin, moov = data.index(b"avcC"), data.index(b"moov")
    length = int.from_bytes(data[begin - 4 : begin])
    changed = b"avcC" + bytes([1, 66, 0, 62, 0xFF, 0xE1]) + headers
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1", b"avcC"):
        place = data.index(name, moov)
        size = int.from_bytes(data[place - 4 : place]) + len(changed) + 4 - length
        data[place - 4 : place] = size.to_bytes(4)
    data[begin : begin - 4 + length] = changed
    return bytes(data)


def _sequence_header(width: int, height: int) -> bytes:
    """An H.264 sequence parameter set of the baseline profile (ITU-T H.264, 7.3.2.1.1)."""

    def golomb(number: int) -> str:
        digits = f"{number + 1:b}"
        return "0" * (len(digits) - 1) + digits

    counts = (0, 0, 2, 1)  # identifier, log2 of the frame numbers - 4, order by decoding, reference frames
    bits = "".join(map(golomb, counts)) + "0" + golomb(width // 16 - 1) + golomb(height // 16 - 1) + "11001"
    bits += "0" * (-len(bits) % 8)
    escaped, zeros = bytearray(), 0
    for byte in bytes([0x67, 66, 0, 62]) + int(bits, 2).to_bytes(len(bits) // 8):
        if zeros >= 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(escaped)
