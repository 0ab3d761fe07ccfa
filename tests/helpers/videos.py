"""Small videos of every awkward kind, made with PyAV, and a plain decoding of them as the oracle."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags

from nlnet.data.media.video import open_video

MS = Fraction(1, 1000)


def picture(k: int, width: int = 64, height: int = 48) -> av.VideoFrame:
    """A frame that tells its number: a bright square walks over a ramp."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(20, 120, width, dtype=np.uint8)[None, :, None]
    x, y = 2 * (k * 3 % (width // 2 - 6)), 2 * (k * 2 % (height // 2 - 6))
    image[y : y + 12, x : x + 12] = 130 + k % 120
    return av.VideoFrame.from_ndarray(image)


def make_video(
    times: Sequence[int],
    base: Fraction = MS,
    kind: str = "mp4",
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    sound: tuple[float, float] | None = None,
    muxer: dict[str, str] | None = None,
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    interlaced: bool = False,
) -> bytes:
    """Frames at `times` ticks of `base` seconds; `sound` (from, to) in seconds beside them."""
    file = io.BytesIO()
    threads = {"x265-params": "pools=1:log-level=error"} if codec == "libx265" else {"threads": "1"}
    with av.open(file, "w", format=kind, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={**threads, **(options or {})})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.time_base = base
        if interlaced:
            stream.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        audio = (
            container.add_stream("aac" if kind in ("mp4", "mpegts", "flv") else "pcm_s16le", rate=8000)
            if sound
            else None
        )
        packets = []
        for k, time in enumerate(times):
            frame = picture(k).reformat(format=pix_fmt)
            frame.pts, frame.time_base, frame.pict_type = time, base, 0
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if audio is not None and sound is not None:
            packets += _sound(audio, *sound)
        for packet in packets:
            container.mux(packet)
    return file.getvalue()


def _sound(stream: av.AudioStream, begin: float, end: float) -> list[av.Packet]:
    stream.codec_context.layout = "mono"
    packets = []
    for at in range(round(begin * 8000), round(end * 8000), 1024):
        planar = stream.codec_context.name == "aac"
        samples = np.zeros((1, 1024), np.float32 if planar else np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp" if planar else "s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, at, Fraction(1, 8000)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def changing_video(
    kind: str, sizes: Sequence[tuple[int, int]] = ((64, 48), (32, 64)), count: int = 12, once: bool = False
) -> bytes:
    """`count` frames of each size in one stream; with `once` the parameters of a size stand before one frame only."""
    file, base = io.BytesIO(), Fraction(1, 25)
    options = {"g": "4", "bf": "0", "threads": "1"}
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuv420p"
        encoders = [stream.codec_context]
        for width, height in sizes[1:]:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuv420p", base
            encoder.options = options
            encoder.flags |= Flags.global_header if once else 0
            encoders.append(encoder)
        for part, (encoder, size) in enumerate(zip(encoders, sizes, strict=True)):
            packets = []
            for k in range(part * count, (part + 1) * count):
                frame = picture(k, *size)
                frame.pts, frame.time_base = k, base
                packets += encoder.encode(frame)
            packets += encoder.encode(None)
            if once and part:
                packets[0] = _with_parameters(packets[0], bytes(encoder.extradata))
            for packet in packets:
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


def _with_parameters(packet: av.Packet, parameters: bytes) -> av.Packet:
    whole = av.Packet(parameters + bytes(packet))
    whole.pts, whole.dts, whole.time_base, whole.is_keyframe = packet.pts, packet.dts, packet.time_base, True
    return whole


def all_marked(data: bytes) -> bytes:
    """An MP4 that lost its list of keyframes: then every packet counts as one."""
    assert data.count(b"stss") == 1
    return data.replace(b"stss", b"free")


def plain_frames(data: bytes) -> list[av.VideoFrame]:
    """All frames from a decoding from the start."""
    with open_video(data) as (container, stream):
        return list(container.decode(stream))


def plain_times(data: bytes) -> list[Fraction]:
    """The seconds of all frames, as their decoder says them, from the start of the earliest stream on."""
    with av.open(io.BytesIO(data)) as container:
        zero = min(s.start_time * s.time_base for s in container.streams if s.start_time is not None)
        [stream] = container.streams.video
        return [frame.pts * frame.time_base - zero for frame in container.decode(stream)]
