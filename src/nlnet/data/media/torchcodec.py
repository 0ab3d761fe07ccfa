"""The frames at given indices, with torchcodec, which uses the FFmpeg libraries of the system.

torchcodec finds frames by their times, and begins wherever a packet is marked as a keyframe. A container that stores no
times (AVI, MPEG) goes to PyAV, which counts, and so does a stream with marks that are no entries
(nlnet.data.media.entries), or could be none, of which torchcodec would give other frames without a word.
"""

from collections.abc import Sequence
from itertools import tee

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from nlnet.data.media import pyav as pyav_decoder
from nlnet.data.media.entries import entry_points
from nlnet.data.media.video import Box, checked_crop, each_packet, has_exact_times, open_video
from nlnet.errors import UserError

_TOLD = ("h264", "hevc", "vp8", "vp9", "av1")


def decode(data: bytes, indices: Sequence[int], crop: Box | None) -> np.ndarray:
    """See nlnet.data.media.decode.decode_clip. Raises UserError where torchcodec is not installed or does not load."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"decoder=torchcodec: it cannot be loaded ({reason}); install nlnet[torchcodec] and FFmpeg, or use pyav"
        ) from error
    # Opened here first: for the limits, and for the stream, which torchcodec would choose by other rules.
    with open_video(data) as (container, stream):
        index, by_time = stream.index, has_exact_times(container) and _marks_hold(container, stream)
    if not by_time:
        return pyav_decoder.decode(data, indices, crop)
    try:
        decoder = VideoDecoder(data, stream_index=index, dimension_order="NHWC", num_ffmpeg_threads=1)
        count = len(decoder)
        if indices and max(indices) >= count:
            raise IndexError(f"frame {max(indices)} of a video of {count} frames")
        clip_THWC = decoder.get_frames_at(indices=list(indices) or [0]).data.numpy()[: len(indices)]
    except (RuntimeError, ValueError):
        return pyav_decoder.decode(data, indices, crop)  # it misses the end of open groups; or says what is wrong
    top, left, rows, columns = checked_crop(crop, *clip_THWC.shape[1:3])
    return np.ascontiguousarray(clip_THWC[:, top : top + rows, left : left + columns])


def _marks_hold(container: InputContainer, stream: VideoStream) -> bool:
    """Whether it can be told that decoding may begin with every packet that is marked as a keyframe, and it may."""
    if stream.codec_context.codec.canonical_name not in _TOLD:
        return False
    packets, marked = tee(each_packet(container, stream))
    entries = entry_points(marked, stream.codec_context)
    return all(entry or not packet.is_keyframe for packet, entry in zip(packets, entries, strict=True))
