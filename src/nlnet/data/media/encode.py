"""Encodes H.264 in MP4 so that clips decode fast.

`transcode` uses x264's `fastdecode` tune, a short distance between keyframes, and three pictures in a row that no other
picture refers to: a decoder that wants every eighth frame skips most of them (nlnet.data.media.pyav).
Both ways give the same bytes for the same input: one thread, bit-exact scaling, no dates or versions in the file.
"""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from nlnet import limits
from nlnet.data.media.source import SourceFrame, SourceTicks, source_frames, source_ticks
from nlnet.data.media.times import SAME_S, exact_rate
from nlnet.data.media.video import VideoError, quarter_turns

# Groups of one P and three B pictures, wherever the content would let x264 choose others; no B refers to another B.
_SKIPPABLE = {"bf": "3", "b_strategy": "0", "b-pyramid": "none"}
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT


class Transcoded(NamedTuple):
    """An encoded video, and the second of its first frame in the file that it was made from."""

    video: bytes
    begin: Fraction


def transcode(
    source: Path | bytes,
    *,
    short_side: int = 288,
    gop: int = 32,
    crf: int = 20,
    tune: str | None = "fastdecode",
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
) -> bytes:
    """Re-encodes the video of a file, without its sound, as H.264 in MP4.

    The shorter side becomes `short_side` pixels, or stays if it is shorter; both sides are made even, and a rotation
    stored beside the frames is carried out. `start` and `end`, in seconds as nlnet.data.media.times has them, keep the
    frames with start <= time < end. Frames keep their times, counted from the first kept one; with `fps` they become
    those of `Times.resampled`, frame k at k / fps. `gop` is the largest distance of keyframes in frames, `crf` is
    x264's quality (lower is better), `tune` its tune, "fastdecode" or None. Raises VideoError: "undecodable", also for
    a file that is not whole, unless all frames of the segment lie before the damage; "no video stream", "no frames",
    "empty", "segment outside the video". Raises nlnet.limits.TooLarge for more frames at `fps` than a video may have.
    """
    options: dict[str, Any] = {"short_side": short_side, "gop": gop, "crf": crf, "tune": tune}
    return transcode_with_begin(source, **options, fps=fps, start=start, end=end).video


def transcode_with_begin(
    source: Path | bytes,
    *,
    short_side: int,
    gop: int,
    crf: int,
    tune: str | None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Transcoded:
    """The same, and which second of the source it begins with."""
    if short_side < 2 or gop < 1 or not 0 <= crf <= 51:
        raise ValueError(f"short_side {short_side}, gop {gop}, crf {crf}: at least 2, at least 1, 0 to 51")
    if fps is not None and not exact_rate(fps) > 0:
        raise ValueError(f"fps {fps}: above 0")
    frames = source_frames(source, start, end)
    options = _options("medium", crf, gop, tune) | _SKIPPABLE
    first = next(frames, None)
    if first is None:
        raise VideoError("no frames" if start is None and end is None else "segment outside the video")
    begin = first.tick * first.base - first.zero
    frames = chain((first,), frames)
    if fps is not None:
        timed, rate = _resampled(frames, first.tick, source_ticks(source, start, end), fps, end), exact_rate(fps)
        return Transcoded(_encode(_fit(timed, short_side), 1 / rate, rate, options), begin)
    timed = ((frame.tick - first.tick, frame.image) for frame in frames)
    return Transcoded(_encode(_fit(timed, short_side), first.base, first.rate, options), begin)


def _resampled(
    frames: Iterable[SourceFrame], first: int, listed: SourceTicks, fps: float, end: float | None
) -> Iterator[tuple[int, VideoFrame]]:
    """(k, the frame shown k / fps after the `first` tick), each as often as it is the nearest, none from `end` on."""
    source = listed._replace(ticks=[tick for tick in listed.ticks if tick >= first])
    video = source.times.resampled(fps)
    limits.FRAMES.check(video.times.frames, f"at fps={fps:g}")
    numbers = np.arange(video.times.frames)
    if end is not None:
        numbers = numbers[: max(1, np.searchsorted(video.times.seconds(numbers), end - SAME_S))]
    wanted, k = [source.ticks[number] for number in video.stored(numbers)], 0
    for frame in frames:
        while k < len(wanted) and wanted[k] <= frame.tick:
            yield k, frame.image
            k += 1


def encode_frames(frames_THWC: np.ndarray, fps: float, *, crf: int = 18, gop: int = 8) -> bytes:
    """Encodes uint8 RGB frames (T, H, W, 3) with even H and W as H.264 in MP4, at `fps` frames per second.

    Raises ValueError for other arrays.
    """
    kind, shape = frames_THWC.dtype, frames_THWC.shape
    if kind != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] == 0 or shape[1] % 2 or shape[2] % 2:
        raise ValueError(f"encode_frames: {kind} {shape}, expected uint8 (T, H, W, 3) with T > 0, H and W even")
    rate = Fraction(fps).limit_denominator(1001)
    reformatter = VideoReformatter()
    frames = (
        (k, reformatter.reformat(VideoFrame.from_ndarray(image), format="yuv420p", interpolation=_SCALING, threads=1))
        for k, image in enumerate(np.ascontiguousarray(frames_THWC))
    )
    return _encode(frames, 1 / rate, rate, _options("veryfast", crf, gop))


def _fit(frames: Iterable[tuple[int, VideoFrame]], short_side: int) -> Iterator[tuple[int, VideoFrame]]:
    """Upright yuv420p frames, all of one size, whatever changes in the middle of the stream."""
    reformatter = VideoReformatter()
    size: tuple[int, int] | None = None
    for time, frame in frames:
        upright = _rotate(frame)
        size = size or _size(upright.width, upright.height, short_side)
        yield (
            time,
            reformatter.reformat(
                upright,
                *size,
                format="yuv420p",
                interpolation=_SCALING,
                src_color_range=upright.color_range,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            ),
        )


def _rotate(frame: VideoFrame) -> VideoFrame:
    """The frame as it is meant to be seen: cameras held upright store a turn instead of turning the pixels."""
    turns = quarter_turns(frame)
    if not turns:
        return frame
    image_HWC = np.rot90(frame.to_ndarray(format="rgb24", threads=1), turns).astype(np.uint8, order="C")
    return VideoFrame.from_ndarray(image_HWC)


def _size(width: int, height: int, short_side: int) -> tuple[int, int]:
    scale = short_side / min(width, height)
    if scale >= 1:
        return max(2, width // 2 * 2), max(2, height // 2 * 2)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _options(preset: str, crf: int, gop: int, tune: str | None = "fastdecode") -> dict[str, str]:
    # x264's macroblock tree gives other bytes at every call on some processors, and gains nothing over so few frames.
    options = {"preset": preset, "crf": str(crf), "g": str(gop), "mbtree": "0"}
    return options | ({"tune": tune} if tune else {})


def _encode(frames: Iterable[tuple[int, VideoFrame]], base: Fraction, rate: Fraction, options: dict[str, str]) -> bytes:
    """An MP4 of frames with their times in `base` seconds; nothing at all for no frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: VideoStream | None = None
        for time, frame in frames:
            if stream is None:
                stream = _open_stream(container, frame, base, rate, options)
            frame.pts, frame.time_base, frame.pict_type = time, base, 0
            container.mux(stream.encode(frame))
        if stream is None:
            return b""
        container.mux(stream.encode(None))
    return file.getvalue()


def _open_stream(
    container: OutputContainer, frame: VideoFrame, base: Fraction, rate: Fraction, options: dict[str, str]
) -> VideoStream:
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
    context = stream.codec_context
    context.thread_count, context.time_base = 1, base
    context.flags |= Flags.bitexact
    context.color_range, context.colorspace = frame.color_range, frame.colorspace
    context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
    return stream
