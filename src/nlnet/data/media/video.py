"""Encoded video: opened within limits, and what it holds.

Frame k is the k-th frame in the order of presentation, which is the order in which a decoder hands them out. Frames are
upright: a turn that is stored beside them (cameras held upright do that) is carried out.
"""

import io
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from nlnet import limits
from nlnet.data.media.damage import find_damage
from nlnet.data.media.limits import excess
from nlnet.data.media.times import Times, times_of
from nlnet.reading import open_regular

Box = tuple[int, int, int, int]
"""A part of the upright picture: top, left, height, width in pixels."""

# Video files and nothing else: FFmpeg would also take a playlist, and open what it names.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,m4v"
_CONTAINER_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}


class VideoError(ValueError):
    """A video that cannot be used; `cause` is a short phrase to count by, such as "undecodable"."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Presentable frames, mean frames per second, width and height of the upright picture in pixels, and the table of
    `times` where the frames are not simply at k / fps."""

    frames: int
    fps: float
    width: int
    height: int
    table: tuple[int, ...] = ()

    @property
    def times(self) -> Times:
        """When each frame is shown."""
        return Times(self.frames, self.fps, self.table)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last: frames / fps."""
        return self.frames / self.fps


@contextmanager
def open_video(source: bytes | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video and its largest video stream (the first of equals; cover pictures do not count).

    Whatever the demuxer or a decoder raises inside the block becomes VideoError("undecodable"), a file without such
    a stream VideoError("no video stream"), and one that claims more than nlnet.limits allows
    VideoError("too large"), before it costs anything. A file that cannot be opened raises OSError.
    """
    try:
        with (
            # Opened here: the demuxer's errors about files look like its errors about what is in them.
            open_regular(source) if isinstance(source, Path) else io.BytesIO(source) as file,
            _open(source, file) as container,
        ):
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError("no video stream")
            streams = [s for s in streams if s.codec_context is not None]
            if not streams:
                raise VideoError("undecodable", "its codec is unknown")
            stream = max(streams, key=lambda s: s.width * s.height)
            if stream.width * stream.height > limits.PIXELS.most:
                raise VideoError("too large", f"{stream.width} x {stream.height}")
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all
            # One thread: the default threading is slower on clips and its speed is erratic.
            stream.thread_count = 1
            stream.codec_context.options = _codec_options()
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError("undecodable", error.strerror or str(error)) from error


def _open(source: bytes | Path, file: BinaryIO) -> InputContainer:
    if isinstance(source, bytes):
        claim = excess(source)
    elif file.seek(0, io.SEEK_END):
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            claim = excess(mapped)
        file.seek(0)
    else:
        source = b""
        claim = None
    if source == b"":
        raise VideoError("empty", "it has 0 bytes")
    if claim:
        raise VideoError("too large", claim)
    # Titles and the like may be in any encoding, or damaged.
    return av.open(file, "r", options=_codec_options(), container_options=_CONTAINER_OPTIONS, metadata_errors="replace")


def _codec_options() -> dict[str, str]:
    return {"max_pixels": str(limits.PIXELS.most)}


def has_exact_times(container: InputContainer) -> bool:
    """Whether the container stores a presentation time for each frame (MP4 and Matroska kin; AVI makes them up)."""
    return not {"mp4", "matroska"}.isdisjoint(container.format.name.split(","))


def packets_of(container: InputContainer, stream: VideoStream) -> list[Packet]:
    """All packets of `each_packet`."""
    return list(each_packet(container, stream))


def each_packet(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets that hold frames: an empty one (the end, or a frame the camera dropped) would flush the decoder.

    Raises VideoError where there are more than a file may have.
    """
    most = limits.FRAMES.most
    for count, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
        if count == most:
            raise VideoError("too large", f"more than {most:,} frames")
        yield packet


def rate_of(stream: VideoStream) -> Fraction:
    """Frames a second as the file says, 25 where it says nothing."""
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def base_of(stream: VideoStream) -> Fraction:
    """Seconds a tick of the stream's times."""
    return stream.time_base or 1 / rate_of(stream)


def zero_of(container: InputContainer) -> Fraction:
    """The second of the container's clock that players show as 0: where the earliest stream starts."""
    about = Fraction(container.start_time or 0, av.time_base)  # rounded; none where nothing is known
    starts = [s.start_time * s.time_base for s in container.streams if s.start_time is not None and s.time_base]
    return min((start for start in starts if abs(start - about) * av.time_base < 2), default=about)


def numbers_packets(container: InputContainer) -> bool:
    """Whether the container numbers its packets instead of storing times (AVI)."""
    return container.format.name == "avi"


class FrameTicks:
    """The ticks at which the frames of a stream are shown, as they come out of a decoder that reads from the start.

    A frame without a time follows the one before it at the stream's rate, and so does one after a jump back of more
    than ten seconds: there the clock was set anew, and the rest goes on from what it said before. Smaller steps back
    are mistakes, and become a step of one tick. Where packets are numbered instead, the k-th frame is at the k-th of
    these numbers, `known`.
    """

    def __init__(self, stream: VideoStream, known: Sequence[int | None] = ()) -> None:
        self.step = max(1, round(1 / (rate_of(stream) * base_of(stream))))
        self.known = [] if None in known else sorted(pts for pts in known if pts is not None)
        self.reset = round(10 / base_of(stream))
        self.count, self.shift = 0, 0
        self.last = (stream.start_time or 0) - self.step

    def __call__(self, pts: int | None) -> int:
        """The tick of the next frame, after the one before it."""
        tick = self.last + self.step if pts is None else pts + self.shift
        if self.count < len(self.known):
            tick = self.known[self.count]
        elif pts is not None and self.count and tick < self.last - self.reset:
            self.shift += self.last + self.step - tick
            tick = self.last + self.step
        self.last = max(tick, self.last + 1) if self.count else tick
        self.count += 1
        return self.last


def quarter_turns(frame: VideoFrame) -> int:
    """How many quarter turns, counter-clockwise as in `np.rot90`, set the frame upright: 0 to 3."""
    return round(frame.rotation / 90) % 4


def probe(data: bytes | Path, *, begin: Fraction | None = None, whole: bool = True) -> VideoInfo:
    """What a video holds, from its packets and its first frame: headers may lie about the number of frames.

    Containers without exact times are decoded instead. Width and height are those that the stream begins with.

    Args:
        data: the file or its content.
        begin: the second of the first frame, where something else than the file says it.
        whole: whether a file that is cut short or has a hole is refused.

    Raises VideoError: "undecodable", "no video stream", "no frames", "too large", "empty".
    """
    with open_video(data) as (container, stream):
        if whole and (damage := find_damage(data)):
            raise VideoError("undecodable", damage.words)
        sides, rate, base = (stream.width, stream.height), rate_of(stream), base_of(stream)
        if not rate > 0:
            raise VideoError("undecodable", f"{rate} frames per second")
        ticks, first = (_stored_ticks if has_exact_times(container) else _decoded_ticks)(container, stream)
        if not ticks or first is None:
            raise VideoError("no frames")
        width, height = sides[::-1] if quarter_turns(first) % 2 else sides
        times = times_of(ticks, base, ticks[0] * base - zero_of(container) if begin is None else begin, rate)
    return VideoInfo(times.frames, times.fps, width, height, times.table)


def _stored_ticks(container: InputContainer, stream: VideoStream) -> tuple[list[int], VideoFrame | None]:
    """When the frames are shown, and the first that comes out of the decoder."""
    ticks, first = [], None
    for packet in each_packet(container, stream):
        if packet.pts is not None and not packet.is_discard:
            ticks.append(packet.pts)
        first = first or next(iter(packet.decode()), None)
    return sorted(ticks), first or next(iter(stream.codec_context.decode(None)), None)


def _decoded_ticks(container: InputContainer, stream: VideoStream) -> tuple[list[int], VideoFrame | None]:
    """The same for containers that do not store it: all frames are decoded."""
    known, times, first = [], [], None
    for packet in chain(each_packet(container, stream), (None,)):
        known += [packet.pts] if packet else []
        for frame in stream.codec_context.decode(packet):
            first = first or frame
            times.append(frame.pts)
    tick_of = FrameTicks(stream, known if numbers_packets(container) else ())
    return [tick_of(pts) for pts in times], first


def count_frames(data: bytes | Path) -> int:
    """How many frames really come out of the decoder. Raises VideoError like `probe`."""
    with open_video(data) as (container, stream):
        return sum(1 for _ in container.decode(stream))


def checked_crop(crop: Box | None, height: int, width: int) -> Box:
    """The crop, or the whole picture for None. Raises VideoError where it is not inside the picture."""
    if crop is None:
        return 0, 0, height, width
    top, left, rows, columns = crop
    if top < 0 or left < 0 or rows < 1 or columns < 1 or top + rows > height or left + columns > width:
        raise VideoError("wrong size", f"the crop {crop} is not inside {height} x {width}")
    return crop
