"""The frames at given indices, with PyAV, doing no more than they need.

Three things are left out. Packets that no wanted frame depends on: each frame needs those from the keyframe before it
to its own. Among these, pictures that no other picture refers to (H.264 marks them; prepared videos have three of them
in a row). And colors outside the crop: the planes are cut before they become RGB, several frames in one conversion.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

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
        for k, frame in _frames(container, stream, sorted(slots) or [0]):
            painter.add(frame, slots.get(k, []))
        return painter.clip()


def _frames(container: InputContainer, stream: VideoStream, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """(k, frame) for each wanted k, rising. Raises IndexError where there is no such frame."""
    if has_exact_times(container):
        packets = packets_of(container, stream)
        times = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
        if len(set(times)) == len(packets):
            yield from _by_time(packets, times, stream, wanted)
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
    packets: list[Packet], times: list[int], stream: VideoStream, wanted: Sequence[int]
) -> Iterator[tuple[int, VideoFrame]]:
    if wanted[-1] >= len(times):
        raise IndexError(f"frame {wanted[-1]} of a video of {len(times)} frames")
    number = {times[k]: k for k in wanted}
    context = stream.codec_context
    skips = context.name == "h264"
    for begin, end in packet_ranges(packets, number):
        context.flush_buffers()
        for packet in [*packets[begin:end], None]:
            if skips and packet is not None:
                context.skip_frame = "DEFAULT" if packet.pts in number else "NONREF"
            for frame in context.decode(packet):
                if frame.pts in number:
                    yield number.pop(frame.pts), frame
    if number:
        raise VideoError("undecodable", f"frame {min(number.values())} does not come out of the decoder")


def packet_ranges(packets: list[Packet], wanted: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges of packets that the frames with the `wanted` times need, each range from a keyframe, in order, apart."""
    position = {packet.pts: i for i, packet in enumerate(packets)}
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    key_times = [packets[i].pts or 0 for i in keys]
    ordered = key_times == sorted(key_times)
    runs: list[tuple[int, int]] = []
    for time in sorted(wanted, key=position.__getitem__):
        before = bisect_right(key_times, time) - 1
        begin = keys[before] if ordered and before >= 0 and keys[before] <= position[time] else 0
        if runs and begin <= runs[-1][1]:
            begin = min(begin, runs[-1][0])
            while runs and begin <= runs[-1][1]:
                begin = min(begin, runs.pop()[0])
        runs.append((begin, position[time] + 1))
    return runs


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
