"""Encoded video: opened within limits, and what it holds.

Frame k is the k-th frame in the order of presentation, which is the order in which a decoder hands them out. Frames are
upright: a turn that is stored beside them (cameras held upright do that) is carried out.
"""

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from nlnet import limits
from nlnet.data.media.limits import excess

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
    """Presentable frames, mean frames per second, width and height of the upright picture in pixels."""

    frames: int
    fps: float
    width: int
    height: int

    @property
    def duration(self) -> float:
        """Seconds: frames / fps."""
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
            open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file,
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
        claim = None
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
    """The packets that hold frames: an empty one (the end, or a frame the camera dropped) would flush the decoder."""
    packets = [packet for packet in container.demux(stream) if packet.size]
    if len(packets) > limits.FRAMES.most:
        raise VideoError("too large", f"{len(packets):,} frames")
    return packets


def quarter_turns(frame: VideoFrame) -> int:
    """How many quarter turns, counter-clockwise as in `np.rot90`, set the frame upright: 0 to 3."""
    return round(frame.rotation / 90) % 4


def probe(data: bytes | Path) -> VideoInfo:
    """What a video holds, from its packets and its first frame: headers may lie about the number of frames.

    Containers without exact times are decoded instead.
    Raises VideoError: "undecodable", "no video stream", "no frames", "too large".
    """
    with open_video(data) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        if has_exact_times(container):
            packets = packets_of(container, stream)
            times = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
            frames = len(times)
            if frames > 1 and times[-1] > times[0] and stream.time_base:
                rate = float((frames - 1) / ((times[-1] - times[0]) * stream.time_base))
            first = next((frame for packet in packets for frame in packet.decode()), None)
            first = first or next(iter(stream.codec_context.decode(None)), None)
        else:
            decoded = container.decode(stream)
            first = next(decoded, None)
            frames = sum(1 for _ in decoded) + 1
        if frames == 0 or first is None:
            raise VideoError("no frames")
        sides = stream.width, stream.height
        width, height = sides[::-1] if quarter_turns(first) % 2 else sides
    if not rate > 0:
        raise VideoError("undecodable", f"{rate} frames per second")
    return VideoInfo(frames=frames, fps=rate, width=width, height=height)


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
