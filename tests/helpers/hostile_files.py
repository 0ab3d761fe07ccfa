"""Small pickles, archives and images that claim to be large."""

import zlib
from collections.abc import Iterator

from helpers.hostile_texts import Case

GIB = 1 << 30


def pickles() -> Iterator[Case]:
    head = b"\x80\x02"
    counted = {"T": 4, "X": 4, "B": 4, "\x8d": 8, "\x8e": 8, "\x96": 8, "\x8b": 4, "U": 1, "C": 1, "\x8a": 1}
    for code, width in counted.items():
        for value in (0x7F << 8 * (width - 1), (1 << 8 * width) - 1):
            yield (
                f"{code!a} of {value}",
                "a.pkl",
                head + code.encode("latin1") + value.to_bytes(width, "little") + b"x.",
            )
    twice = b"I1\n" + b"q\x00h\x00\x86" * 60
    steps = {
        "memo 2^31": b"Nr" + (2**31 - 1).to_bytes(4, "little") + b".",
        "memo 2^32": b"Nr\xff\xff\xff\xff.",
        "memo in digits": b"Np9999999999999\n.",
        "memo below": b"Np-1\n.",
        "get": b"g99999999999\n.",
        "frame": b"\x95" + b"\xff" * 8 + b"N.",
        "a key of doubled tuples": b"}" + twice + b"I1\ns.",
        "keys": b"}(" + twice + b"I1\nu.",
        "doubled": b"I1\n" + b"2\x86" * 60 + b".",
        "a set of them": b"(" + twice + b"\x91.",
        "tuples": b"N" + b"\x85" * (6 << 20) + b".",
        "lists": b"(" + b"]" * (6 << 20) + b"l.",
        "marks": b"(" * (6 << 20),
        "digits": b"I" + b"9" * 10**6 + b"\n.",
        "long": b"L" + b"9" * 10**6 + b"L\n.",
        "nothing": b".",
        "buffer": b"\x97.",
        "extension": b"\x84\xff\xff\xff\x7f.",
        "persistent": b"Pabc\n.",
        "a class": b"(ios\nsystem\n.",
        "no end": b"]" * 100,
        "itself": b"]q\x002h\x00a.",
        "pop": b"0" * 100 + b".",
        "unknown": b"\xfe.",
    }
    yield from ((name, "a.pkl", head + content) for name, content in steps.items())


# ---- archives


def tar_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of 512 bytes whose checksum is right."""
    head = bytearray(
        name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"0" * 11 + b"\0"
    )
    head += b" " * 8 + kind + b"\0" * 100 + b"ustar\x0000"
    head = head.ljust(512, b"\0")
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def _binary(value: int) -> bytes:
    return b"\x80" + value.to_bytes(11, "big")


def _pax(key: bytes, value: bytes) -> bytes:
    record = b" " + key + b"=" + value + b"\n"
    length = len(record) + len(str(len(record) + 2))
    record = b"%d" % length + record
    return tar_header(b"p", b"%011o" % len(record), b"x") + record.ljust(512, b"\0")


def tars() -> Iterator[Case]:
    end, body = b"\0" * 1024, b"x" * 512
    small = tar_header(b"a.mp4", b"%011o" % 512) + body + end
    for value in (2**30, 2**33, 6 * GIB, 2**40, 2**62, 2**80):
        yield f"size {value}", "a.tar", tar_header(b"a.mp4", _binary(value)) + body + end
        yield (
            f"pax size {value}",
            "a.tar",
            _pax(b"size", b"%d" % value) + tar_header(b"a.mp4", b"%011o" % 512) + body + end,
        )
        yield f"long name {value}", "a.tar", tar_header(b"n", _binary(value), b"L") + body + end
        yield f"sparse {value}", "a.tar", tar_header(b"a.mp4", _binary(value), b"S") + end
    yield "pax sparse", "a.tar", _pax(b"GNU.sparse.realsize", b"%d" % (6 * GIB)) + small
    yield "pax sparse 0.1", "a.tar", _pax(b"GNU.sparse.size", b"%d" % (6 * GIB)) + small
    yield "pax digits", "a.tar", _pax(b"size", b"9" * 5000) + small
    yield "negative", "a.tar", tar_header(b"a.mp4", b"\xff" * 12) + end
    packed = zlib.compressobj(9, wbits=31)
    yield "gzip", "a.tar", b"".join(packed.compress(bytes(1 << 24)) for _ in range(8)) + packed.flush()
    yield "no tar", "a.tar", b"x" * 4096


def images() -> Iterator[Case]:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    def png(width: int, height: int, *more: bytes) -> bytes:
        head = chunk(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0")
        return (
            b"\x89PNG\r\n\x1a\n"
            + head
            + b"".join(more)
            + chunk(b"IDAT", zlib.compress(b"\0" * 100))
            + chunk(b"IEND", b"")
        )

    for side in (4097, 10**4, 2**16, 2**20, 2**31 - 1):
        yield f"{side} squared", "a.png", png(side, side)
        yield f"1 by {side}", "a.png", png(1 << 24, side)
        frame = b"\xff\xc0\x00\x11\x08" + min(side, 65535).to_bytes(2) * 2 + b"\x03\x01\x22\0\x02\x11\x01\x03\x11\x01"
        yield f"JPEG of {side}", "a.jpg", b"\xff\xd8" + frame + b"\xff\xd9"
    text = zlib.compress(bytes(1 << 27), 9)
    for kind in (b"zTXt", b"iCCP"):
        yield f"{kind!a}", "a.png", png(64, 64, chunk(kind, b"k\0\0" + text))
    yield "iTXt", "a.png", png(64, 64, chunk(b"iTXt", b"k\0\x01\0\0\0" + text))
    yield "a chunk of 2^31", "a.png", png(64, 64)[:33] + (2**31 - 1).to_bytes(4) + b"tEXtx"
    yield "no size", "a.png", png(0, 0)
    yield "an empty file", "a.png", b""
