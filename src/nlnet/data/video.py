"""Reads encoded video with PyAV: what it holds, and the frames at given places.

Frame k is the k-th frame in the order of presentation, which is the order in which a decoder hands them out. Timestamps
only serve to start at a keyframe, and only in containers that store them for every frame (AVI, for one, makes them up).
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

# Reading the packets of a 10 s clip costs as much as decoding this many of its frames.
_SEEK_FROM = 16


class VideoError(ValueError):
    """A video that cannot be used; `cause` is a short phrase to count by, such as "undecodable"."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Presentable frames, mean frames per second, width and height in pixels."""

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

    Whatever the demuxer or a decoder raises inside the block becomes VideoError("undecodable"), and a file without such
    a stream VideoError("no video stream"). A file that cannot be opened raises OSError.
    """
    try:
        with (
            # Opened here: the demuxer's errors about files look like its errors about what is in them.
            open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file,
            av.open(file, "r") as container,
        ):
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError("no video stream")
            stream = max(streams, key=lambda s: s.width * s.height)
            # One thread: the default threading is slower on clips and its speed is erratic.
            stream.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError("undecodable", error.strerror or str(error)) from error


def has_exact_times(container: InputContainer) -> bool:
    """Whether the container stores a presentation time for each frame (MP4 and Matroska kin)."""
    return not {"mp4", "matroska"}.isdisjoint(container.format.name.split(","))


def probe(data: bytes | Path) -> VideoInfo:
    """What a video holds, from its packets: headers may lie about the number of frames.

    Containers without exact times are decoded instead.
    Raises VideoError: "undecodable", "no video stream", "no frames".
    """
    with open_video(data) as (container, stream):
        width, height = stream.width, stream.height
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        if has_exact_times(container):
            times = sorted(p.pts for p in _packets(container, stream) if p.pts is not None and not p.is_discard)
            frames = len(times)
            if frames > 1 and times[-1] > times[0] and stream.time_base:
                rate = float((frames - 1) / ((times[-1] - times[0]) * stream.time_base))
        else:
            frames = sum(1 for _ in container.decode(stream))
    if frames == 0:
        raise VideoError("no frames")
    return VideoInfo(frames=frames, fps=rate, width=width, height=height)


def count_frames(data: bytes | Path) -> int:
    """How many frames really come out of the decoder. Raises VideoError like `probe`."""
    with open_video(data) as (container, stream):
        return sum(1 for _ in container.decode(stream))


def decode_clip(data: bytes, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The frames at `indices` as uint8 RGB (T, H, W, 3), in the order of `indices`, which may repeat.

    Decodes from the keyframe before the first wanted frame (where that saves anything) to the last wanted one.
    Raises IndexError for an index below 0 or beyond the last frame, and VideoError as `probe` does.
    """
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(int(index), []).append(place)
    if places and min(places) < 0:
        raise IndexError(f"frame {min(places)}: the first frame is 0")
    reformatter = VideoReformatter()
    with open_video(data) as (container, stream):
        width, height = stream.width, stream.height
        clip_THWC = np.empty((len(indices), height, width, 3), np.uint8)
        if not places:
            return clip_THWC
        last, seen = max(places), -1
        for seen, frame in _frames(container, stream, min(places)):
            if seen in places:
                clip_THWC[places[seen]] = reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
            if seen >= last:
                return clip_THWC
    raise IndexError(f"frame {last} of a video of {seen + 1} frames")


def _packets(container: InputContainer, stream: VideoStream) -> list[Packet]:
    # An empty packet (the end, or a frame the camera dropped) holds no frame and would flush the decoder.
    return [packet for packet in container.demux(stream) if packet.size]


def _frames(container: InputContainer, stream: VideoStream, first: int) -> Iterator[tuple[int, VideoFrame]]:
    """(k, frame) in order of presentation, from some k <= first to the end."""
    if first < _SEEK_FROM or not has_exact_times(container):
        yield from enumerate(container.decode(stream))
        return
    packets = _packets(container, stream)
    times = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
    number = {time: k for k, time in enumerate(times)}
    start = _keyframe_before(packets, times, first) if len(number) == len(packets) else 0
    origin = packets[start].pts if start else None
    k = -1
    for frame in _decode(packets[start:], stream):
        # After a start in the middle, frames presented before the keyframe lack their references.
        if origin is not None and (frame.pts is None or frame.pts < origin):
            continue
        k = k + 1 if k >= 0 or origin is None else number[origin]
        yield k, frame


def _keyframe_before(packets: list[Packet], times: list[int], first: int) -> int:
    """The last packet from which frame `first` can be decoded; 0, the first packet, where there is no better."""
    if first >= len(times):
        return 0
    starts = [i for i, p in enumerate(packets) if p.is_keyframe and p.pts is not None and p.pts <= times[first]]
    return starts[-1] if starts else 0


def _decode(packets: list[Packet], stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in packets:
        yield from packet.decode()
    yield from stream.codec_context.decode(None)
