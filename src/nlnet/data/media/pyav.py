"""The frames at given indices, with PyAV, doing no more than they need.

Three things are left out. Packets that no wanted frame depends on: each frame needs those from the entry before it
(nlnet.data.media.entries) to its own. Among these, pictures that no other picture refers to (H.264 marks them; prepared
videos have three of them in a row). And colors outside the crop: the planes are cut before they become RGB, several
frames in one conversion.
"""

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from av import FFmpegError
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from nlnet.data.media.entries import entry_points, forgets
from nlnet.data.media.video import Box, VideoError, checked_crop, has_exact_times, open_video, packets_of, quarter_turns

# Frames converted together: enough to spread the cost of a call, few enough to keep 4K pictures out of memory.
_FRAMES_AT_ONCE = 8
_PLANAR = ("yuv420p", "yuvj420p")


def decode(data: bytes, indices: Sequence[int], crop: Box | None) -> np.ndarray:
    """See nlnet.data.media.decode.decode_clip."""
    slots: dict[int, list[int]] = {}  # frame -> where it goes in the clip
    for slot, index in enumerate(indices):
        slots.setdefault(index, []).append(slot)
    with open_video(data) as (container, stream):
        painter = _Painter(stream.height, stream.width, len(indices), crop)
        for k, frame in _frames(data, container, stream, sorted(slots) or [0]):
            painter.add(frame, slots.get(k, []))
        return painter.clip()


def _frames(
    data: bytes, container: InputContainer, stream: VideoStream, wanted: Sequence[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """(k, frame) for each wanted k, rising. Raises IndexError where there is no such frame."""
    if has_exact_times(container):
        packets = packets_of(container, stream)
        times = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
        if len(set(times)) == len(packets):
            yield from _by_time(data, packets, times, stream, wanted)
            return
        # Times are missing or occur twice: what is left is to count.
        yield from _by_count(_decoded(packets, stream), wanted)
        return
    yield from _by_count(container.decode(stream), wanted)


def _by_count(frames: Iterable[VideoFrame], wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    chosen, seen = set(wanted), -1
    for seen, frame in enumerate(frames):
        if seen in chosen:
            yield seen, frame
        if seen >= wanted[-1]:
            return
    raise IndexError(f"frame {wanted[-1]} of a video of {seen + 1} frames")


def _by_time(
    data: bytes, packets: list[Packet], times: list[int], stream: VideoStream, wanted: Sequence[int]
) -> Iterator[tuple[int, VideoFrame]]:
    if wanted[-1] >= len(times):
        raise IndexError(f"frame {wanted[-1]} of a video of {len(times)} frames")
    number: dict[int | None, int] = {times[k]: k for k in wanted}
    for begin, end in packet_ranges(packets, number, _entries(packets, stream)):
        yield from _decode_range(packets, begin, end, stream, number)
    if number:  # something was no entry, after all; another decoder, since this one has read what lies behind
        with open_video(data) as (container, fresh):
            yield from _decode_range(packets_of(container, fresh), 0, len(packets), fresh, number)
    if number:
        raise VideoError("undecodable", f"frame {min(number.values())} does not come out of the decoder")


def _decode_range(
    packets: list[Packet], begin: int, end: int, stream: VideoStream, number: dict[int | None, int]
) -> Iterator[tuple[int, VideoFrame]]:
    """The frames of these packets that `number` has a number for, which it loses; none if they begin with no entry."""
    context = stream.codec_context
    skips, entered = context.name == "h264", begin == 0
    context.flush_buffers()
    for packet in chain(packets[begin:end], (None,)):
        if skips and packet is not None:
            context.skip_frame = "DEFAULT" if packet.pts in number or packet is packets[begin] else "NONREF"
        try:
            frames = context.decode(packet)
        except FFmpegError:
            if begin == 0:
                raise
            return  # from the start it may be right, or the error is said
        for frame in frames:
            entered = entered or (frame.pts == packets[begin].pts and frame.key_frame)
            if entered and frame.pts in number:
                yield number.pop(frame.pts), frame


def _entries(packets: list[Packet], stream: VideoStream) -> list[int]:
    return [i for i, entry in enumerate(entry_points(packets, stream.codec_context)) if entry]


def packet_ranges(
    packets: list[Packet], wanted: Iterable[int | None], entries: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Ranges of packets that the frames with the `wanted` times need, each range from an entry, in order, apart.

    The entries are the keyframes where none are named.
    """
    entries = entries or [i for i, packet in enumerate(packets) if packet.is_keyframe]
    runs: list[tuple[int, int]] = []
    for begin, position in sorted(_spans(packets, wanted, entries), key=lambda span: span[1]):
        if runs and begin <= runs[-1][1]:
            begin = min(begin, runs[-1][0])
            while runs and begin <= runs[-1][1]:
                begin = min(begin, runs.pop()[0])
        runs.append((begin, position + 1))
    return runs


def _spans(packets: list[Packet], wanted: Iterable[int | None], entries: Sequence[int]) -> list[tuple[int, int]]:
    """(the entry from which it is decoded, its own packet) of each frame with one of the `wanted` times."""
    position = {packet.pts: i for i, packet in enumerate(packets)}
    entry_times = [packets[i].pts or 0 for i in entries]
    ordered = entry_times == sorted(entry_times)
    spans = []
    for time in wanted:
        before = bisect_right(entry_times, time or 0) - 1
        fits = ordered and before >= 0 and entries[before] <= position[time]
        spans.append((entries[before] if fits else 0, position[time]))
    return spans


def check_frames(data: bytes) -> int:
    """How many frames really come out of the decoder, once those asked for alone are known to be the same.

    Decodes the video from the start, and then every other frame again from the entry before it, unless all entries are
    pictures by which the standard makes a decoder forget what it knows.
    Raises VideoError: "not seekable" where these differ, or where none of several keyframes is an entry, so that every
    clip has to be decoded from the start; others like `nlnet.data.media.video.probe`.
    """
    with open_video(data) as (container, stream):
        if not has_exact_times(container):
            return sum(1 for _ in container.decode(stream))
        packets = packets_of(container, stream)
        entries = [packets[i] for i in _entries(packets, stream)[1:]]
        if entries and all(forgets(entry, stream.codec_context) for entry in entries):
            return sum(1 for _ in _decoded(packets, stream))
        digests = {frame.pts: _digest(frame) for frame in _decoded(packets, stream)}
        marked = sum(packet.is_keyframe for packet in packets)
        unique = len({packet.pts for packet in packets if not packet.is_discard}) == len(packets)
    if unique and marked > 1 and not _good_entries(data, digests):
        why = f"{marked} frames are marked as keyframes, but decoding can begin with the first one only"
        raise VideoError("not seekable", f"{why}; encode=h264 mends it")
    return len(digests)


def _good_entries(data: bytes, digests: dict[int | None, int]) -> int:
    """How many entries beside the first there are. Raises VideoError where one of them gives other frames."""
    good = 0
    with open_video(data) as (container, stream):
        packets = packets_of(container, stream)
        groups: dict[int, list[int]] = {}
        for begin, position in _spans(packets, digests, _entries(packets, stream)):
            groups.setdefault(begin, []).append(position)
        for begin, positions in sorted(groups.items()):
            chosen = sorted(positions)[::2]  # the others are left out, as a clip with a stride leaves them out
            number: dict[int | None, int] = {packets[i].pts: i for i in chosen}
            for _, frame in _decode_range(packets, begin, chosen[-1] + 1, stream, number) if begin else ():
                if _digest(frame) != digests[frame.pts]:
                    why = f"a decoding from the keyframe at packet {begin} gives other frames than one from the start"
                    raise VideoError("not seekable", f"{why}; encode=h264 mends it")
            good += not number
    return good


def _digest(frame: VideoFrame) -> int:
    """A checksum of the pixels."""
    if not frame.format.name.startswith(("yuv", "gray")) or not frame.format.is_planar:
        return zlib.crc32(_pixels(VideoReformatter().reformat(frame, format="rgb24", threads=1)).tobytes())
    digest = 0
    for plane, component in zip(frame.planes, frame.format.components, strict=False):
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        digest = zlib.crc32(lines[: plane.height, : plane.width * -(-component.bits // 8)].tobytes(), digest)
    return digest


def _decoded(packets: list[Packet], stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in packets:
        yield from packet.decode()
    yield from stream.codec_context.decode(None)


class _Painter:
    """Turns frames into upright, cropped RGB, a few at a time; all frames have the size of the stream, or get it."""

    def __init__(self, height: int, width: int, count: int, crop: Box | None) -> None:
        self.height, self.width, self.count, self.crop = height, width, count, crop
        self.turns = 0
        self.box: Box | None = None  # the crop in the pixels as they are stored
        self.out_THWC: np.ndarray | None = None
        self.waiting: list[tuple[VideoFrame, list[int]]] = []
        self.reformatter = VideoReformatter()

    def add(self, frame: VideoFrame, slots: list[int]) -> None:
        """One more frame, which goes to these slots of the clip."""
        if self.box is None:
            self.turns = quarter_turns(frame)
            sides = (self.width, self.height) if self.turns % 2 else (self.height, self.width)
            self.box = _stored(checked_crop(self.crop, *sides), self.height, self.width, self.turns)
            self.out_THWC = np.empty((self.count, *self.box[2:], 3), np.uint8)
        if self.waiting and _kind(frame) != _kind(self.waiting[0][0]):
            self._paint()
        self.waiting.append((frame, slots))
        if len(self.waiting) == _FRAMES_AT_ONCE:
            self._paint()

    def clip(self) -> np.ndarray:
        """The clip (T, H, W, 3)."""
        self._paint()
        if self.out_THWC is None:
            raise VideoError("no frames")
        return np.ascontiguousarray(np.rot90(self.out_THWC, self.turns, axes=(1, 2)))

    def _paint(self) -> None:
        if not self.waiting or self.box is None or self.out_THWC is None:
            return
        frames = [frame for frame, _ in self.waiting]
        for image_HWC, (_, slots) in zip(self._rgb(frames, self.box), self.waiting, strict=True):
            if slots:
                self.out_THWC[slots] = image_HWC
        self.waiting.clear()

    def _rgb(self, frames: list[VideoFrame], box: Box) -> np.ndarray | list[np.ndarray]:
        top, left, rows, columns = box
        # Color is stored for squares of two by two pixels, so planes are cut at even positions.
        upper, first = top // 2 * 2, left // 2 * 2
        lower, last = -(-(top + rows) // 2) * 2, -(-(left + columns) // 2) * 2
        frame = frames[0]
        same = (frame.height, frame.width) == (self.height, self.width)
        if same and frame.format.name in _PLANAR and lower <= self.height and last <= self.width:
            cut = _cut(frames, upper, first, lower - upper, last - first)
            cut_THWC = _pixels(self.reformatter.reformat(cut, format="rgb24", threads=1))
            cut_THWC = cut_THWC[: len(frames) * (lower - upper)].reshape(len(frames), lower - upper, -1, 3)
            return cut_THWC[:, top - upper :, left - first :][:, :rows, :columns]
        wholes = [self.reformatter.reformat(f, self.width, self.height, "rgb24", threads=1) for f in frames]
        return [_pixels(whole)[top : top + rows, left : left + columns] for whole in wholes]


def _kind(frame: VideoFrame) -> tuple[object, ...]:
    return frame.format.name, frame.height, frame.width, frame.colorspace, frame.color_range


def _stored(crop: Box, height: int, width: int, turns: int) -> Box:
    """A crop of the upright picture in a stored picture of (height, width) that `turns` quarter turns set upright."""
    top, left, rows, columns = crop
    return (
        crop,
        (left, width - top - rows, columns, rows),
        (height - top - rows, width - left - columns, rows, columns),
        (height - left - columns, top, columns, rows),
    )[turns]


def _cut(frames: list[VideoFrame], top: int, left: int, rows: int, columns: int) -> VideoFrame:
    """The same part of several 4:2:0 frames, stacked into one tall frame."""
    height = -(-len(frames) * rows // 4) * 4  # PyAV takes heights in fours
    planes = np.zeros(height * columns * 3 // 2, np.uint8)
    begin = 0
    for plane, step in enumerate((1, 2, 2)):
        h, w = rows // step, columns // step
        part_THW = planes[begin : begin + len(frames) * h * w].reshape(len(frames), h, w)
        begin += height // step * w
        for target, frame in zip(part_THW, frames, strict=True):
            source = frame.planes[plane]
            pixels = np.frombuffer(memoryview(source), np.uint8).reshape(-1, source.line_size)
            target[:] = pixels[top // step : top // step + h, left // step : left // step + w]
    tall = VideoFrame.from_numpy_buffer(planes.reshape(height * 3 // 2, columns), frames[0].format.name)
    tall.colorspace, tall.color_range = frames[0].colorspace, frames[0].color_range
    return tall


def _pixels(frame: VideoFrame) -> np.ndarray:
    """A view of an RGB frame's pixels (H, W, 3), without the padding of its lines."""
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[: frame.height, : frame.width * 3].reshape(frame.height, frame.width, 3)
