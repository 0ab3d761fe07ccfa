"""The frames of a source file between two seconds, one after the other: what `transcode` encodes.

Where the container stores times, decoding begins at the last entry before the first frame that is wanted
(nlnet.data.media.entries); everywhere else, and where that was none after all, it begins at the start of the file.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from heapq import heappop, heappush
from itertools import chain, islice, tee
from pathlib import Path
from typing import NamedTuple

from av import FFmpegError
from av.video.frame import VideoFrame

from nlnet.data.media.damage import find_damage
from nlnet.data.media.entries import entry_points
from nlnet.data.media.times import Times, times_of
from nlnet.data.media.video import (
    FrameTicks,
    VideoError,
    base_of,
    each_packet,
    has_exact_times,
    numbers_packets,
    open_video,
    rate_of,
    zero_of,
)

_MOST_WAITING = 16  # frames that a later one may come before: as many as H.264 and HEVC let a decoder hold


class SourceFrame(NamedTuple):
    """A frame at `tick` times `base` seconds of the container's clock, which is at `zero` where players show 0."""

    tick: int
    image: VideoFrame
    base: Fraction
    zero: Fraction
    rate: Fraction


class SourceTicks(NamedTuple):
    """The ticks of frames, rising, and what makes seconds of them; see `SourceFrame`."""

    ticks: list[int]
    base: Fraction
    zero: Fraction
    rate: Fraction

    @property
    def times(self) -> Times:
        """When the frames are shown."""
        return times_of(self.ticks, self.base, self.ticks[0] * self.base - self.zero, self.rate)


class _Packet(NamedTuple):
    """What is kept of a packet: when its frame is shown, None for not at all; whether decoding may begin with it; where
    it lies in the file."""

    tick: int | None
    entry: bool
    position: int


class _Listing(NamedTuple):
    """The packets of a stream, and what makes seconds of their ticks."""

    packets: list[_Packet]
    by_time: bool  # whether the packets say exactly which frame is shown when
    base: Fraction
    zero: Fraction
    rate: Fraction

    def seconds(self, tick: int) -> float:
        return float(tick * self.base - self.zero)

    def between(self, start: float | None, end: float | None) -> list[int]:
        """The ticks with start <= time < end, rising."""
        ticks = sorted(packet.tick for packet in self.packets if packet.tick is not None)
        first = 0 if start is None else bisect_left(ticks, start, key=self.seconds)
        behind = len(ticks) if end is None else bisect_left(ticks, end, key=self.seconds)
        return ticks[first:behind]


def source_frames(source: Path | bytes, start: float | None = None, end: float | None = None) -> Iterator[SourceFrame]:
    """The frames with start <= time < end in the order of their times, which rise from each to the next.

    Raises VideoError like nlnet.data.media.video.probe, "undecodable" for a file that is not whole unless it has a
    frame behind `end` and before the damage.
    """
    listing = _list(source)
    _check_damage(source, listing, end)
    choose = _by_time if listing.by_time else _by_order
    for tick, image in choose(source, listing, start, end):
        yield SourceFrame(tick, image, listing.base, listing.zero, listing.rate)


def source_ticks(source: Path | bytes, start: float | None = None, end: float | None = None) -> SourceTicks:
    """When the frames of `source_frames` are shown; they are only decoded for it where the container does not say."""
    listing = _list(source)
    if listing.by_time:
        ticks = listing.between(start, end)
    else:
        ticks = [tick for tick, _ in _by_order(source, listing, start, end)]
    return SourceTicks(ticks, listing.base, listing.zero, listing.rate)


def _list(source: Path | bytes) -> _Listing:
    with open_video(source) as (container, stream):
        stored, packets = has_exact_times(container), []
        if stored or numbers_packets(container):
            kept, marked = tee(each_packet(container, stream))
            for packet, entry in zip(kept, entry_points(marked, stream.codec_context), strict=True):
                packets.append(_Packet(None if packet.is_discard else packet.pts, entry, packet.pos or 0))
        whole = stored and len({packet.tick for packet in packets} - {None}) == len(packets)
        return _Listing(packets, whole, base_of(stream), zero_of(container), rate_of(stream))


def _check_damage(source: Path | bytes, listing: _Listing, end: float | None) -> None:
    damage = find_damage(source)
    if damage is None:
        return
    before = [p.tick for p in listing.packets if p.tick is not None and p.position < damage.position]
    if end is None or not before or listing.seconds(max(before)) < end:
        raise VideoError("undecodable", damage.words)


def _by_time(
    source: Path | bytes, listing: _Listing, start: float | None, end: float | None
) -> Iterator[tuple[int, VideoFrame]]:
    ticks = listing.between(start, end)
    wanted = set(ticks)
    if not wanted:
        return
    places = [i for i, packet in enumerate(listing.packets) if packet.tick in wanted]
    earliest, count = ticks[0], 0
    # Pictures behind an entry in the file may be shown before it, and cannot be decoded from there.
    entries = [i for i, p in enumerate(listing.packets) if p.entry and p.tick is not None and p.tick <= earliest]
    for begin in dict.fromkeys((max((i for i in entries if i <= places[0]), default=0), 0)):
        decoded = _decode(source, begin, places[-1] + 1)
        for tick, frame in _sorted(((t, frame) for t, frame in decoded if t in wanted), ticks):
            count += 1
            yield tick, frame
        if count:
            return
    raise VideoError("undecodable", f"none of {len(wanted)} frames can be decoded")


def _sorted(frames: Iterable[tuple[int, VideoFrame]], ticks: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """The frames in the order of these times. A decoder goes by the order in the pictures; damage may change either."""
    waiting: list[tuple[int, int, VideoFrame]] = []
    place, last = 0, len(ticks) - 1
    for count, item in enumerate(chain(frames, (None,))):
        if item is not None:
            heappush(waiting, (item[0], count, item[1]))
        while waiting and (item is None or waiting[0][0] <= ticks[min(place, last)] or len(waiting) > _MOST_WAITING):
            tick, _, frame = heappop(waiting)
            if place > last or tick < ticks[place]:
                raise VideoError("undecodable", "its frames do not come out of the decoder in the order of their times")
            place = bisect_left(ticks, tick) + 1
            yield tick, frame


def _decode(source: Path | bytes, begin: int, end: int) -> Iterator[tuple[int | None, VideoFrame]]:
    """(tick, frame) of the packets from `begin` to `end`; none if the first of them turns out to be no entry."""
    with open_video(source) as (container, stream):
        entered, key = begin == 0, None
        for packet in chain(islice(each_packet(container, stream), begin, end), (None,)):
            key = packet.pts if key is None and packet is not None else key
            try:
                frames = stream.codec_context.decode(packet)
            except FFmpegError:
                if entered:
                    raise
                return
            for frame in frames:
                entered = entered or (frame.pts == key and frame.key_frame)
                if entered:
                    yield frame.pts, frame


def _by_order(
    source: Path | bytes, listing: _Listing, start: float | None, end: float | None
) -> Iterator[tuple[int, VideoFrame]]:
    with open_video(source) as (container, stream):
        tick_of = FrameTicks(stream, [packet.tick for packet in listing.packets])
        for packet in chain(each_packet(container, stream), (None,)):
            for frame in stream.codec_context.decode(packet):
                tick = tick_of(frame.pts)
                if end is not None and listing.seconds(tick) >= end:
                    return
                if start is None or listing.seconds(tick) >= start:
                    yield tick, frame
