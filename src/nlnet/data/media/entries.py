"""Where decoding may begin in a stream: the packets from which the frames come out as in a decoding from the start.

A container marks packets as keyframes. The mark is not enough: H.264 has recovery points, some of which only begin a
refresh that is complete many frames later, and some containers mark every packet. So for H.264 and HEVC the packet
itself says whether it is an entry; for other codecs the decoder does, with the first frame that it makes of it.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

_IDR, _SEI, _RECOVERY = 5, 6, 6


def entry_points(packets: Iterable[Packet], context: VideoCodecContext) -> Iterator[bool]:
    """Whether decoding may begin with each of a stream's packets, as far as the packet shows it; with the first it may.

    Once a keyframe has brought parameters for the decoder, only those that bring their own are entries: whoever leaves
    the change out decodes with the parameters of the beginning.
    """
    read = {"h264": _read_h264, "hevc": _read_hevc}.get(context.name)
    length, changed = _length_size(context), False
    for i, packet in enumerate(packets):
        if i == 0 or not packet.is_keyframe:
            yield i == 0
            continue
        entry = _Entry(True, False) if read is None else read(_units(memoryview(packet), length))
        beside = packet.has_sidedata("new_extradata")
        yield entry.opens and not packet.is_discard and (entry.parameters or not (changed or beside))
        changed = changed or beside or entry.parameters


def forgets(packet: Packet, context: VideoCodecContext) -> bool:
    """Whether the packet is an IDR picture of H.264 or HEVC: no picture from there on may refer to one before it."""
    read = {"h264": _read_h264, "hevc": _read_hevc}.get(context.name)
    return read is not None and read(_units(memoryview(packet), _length_size(context))).forgets


class _Entry(NamedTuple):
    """Whether a packet is an entry, whether it brings the parameters that the decoder needs, and whether it is IDR."""

    opens: bool
    parameters: bool
    forgets: bool = False


def _length_size(context: VideoCodecContext) -> int:
    """Bytes of the length before each unit of H.264 or HEVC; 0 where start codes stand between them."""
    extra = bytes(context.extradata or b"")
    at = 21 if context.name == "hevc" else 4
    return (extra[at] & 3) + 1 if len(extra) > at and extra[0] == 1 else 0


def _units(data: memoryview, length: int) -> Iterator[memoryview]:
    """The units of a packet, one after the other."""
    if not length:
        yield from (memoryview(unit) for unit in bytes(data).split(b"\0\0\1")[1:])
        return
    at = 0
    while at + length < len(data):
        end = at + length + int.from_bytes(data[at : at + length])
        yield data[at + length : end]
        at = end


def _read_h264(units: Iterator[memoryview]) -> _Entry:
    """An IDR picture, or a recovery point from whose very picture on all pictures are exact."""
    exact, kinds = False, set[int]()
    for unit in filter(len, units):
        kind = unit[0] & 31
        kinds.add(kind)
        if kind == _SEI:
            exact = exact or _recovers_at_once(bytes(unit[1:]).replace(b"\0\0\3", b"\0\0"))
        elif 1 <= kind <= _IDR:
            # Parameters are those of the sequence and those of the picture.
            return _Entry(exact or kind == _IDR, {7, 8} <= kinds, kind == _IDR)
    return _Entry(False, False)


def _recovers_at_once(messages: bytes) -> bool:
    """Whether one of these supplemental messages is a recovery point, after 0 frames, exact, with no broken link."""
    at = 0
    while at + 2 < len(messages):
        numbers = []  # the kind of the message, its bytes: each in bytes of 255 and one below
        for _ in range(2):
            number = 0
            while at < len(messages) and messages[at] == 255:
                number, at = number + 255, at + 1
            numbers.append(number + (messages[at] if at < len(messages) else 0))
            at += 1
        if numbers[0] == _RECOVERY and at < len(messages):
            return messages[at] >> 5 == 0b110
        at += numbers[1]
    return False


def _read_hevc(units: Iterator[memoryview]) -> _Entry:
    """A picture of a random access point: IDR, BLA or CRA."""
    kinds = set[int]()
    for unit in filter(len, units):
        kind = unit[0] >> 1 & 63
        kinds.add(kind)
        if kind < 32:
            return _Entry(16 <= kind <= 23, {33, 34} <= kinds, kind in (19, 20))
    return _Entry(False, False)
