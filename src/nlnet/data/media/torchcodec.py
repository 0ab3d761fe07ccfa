"""The frames at given indices, with torchcodec, which uses the FFmpeg libraries of the system.

torchcodec finds frames by their times. A container that stores none (AVI, MPEG) goes to PyAV, which counts.
"""

from collections.abc import Sequence

import numpy as np

from nlnet.data.media import pyav as pyav_decoder
from nlnet.data.media.video import Box, VideoError, checked_crop, has_exact_times, open_video
from nlnet.errors import UserError


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
        index, by_time = stream.index, has_exact_times(container)
    if not by_time:
        return pyav_decoder.decode(data, indices, crop)
    try:
        decoder = VideoDecoder(data, stream_index=index, dimension_order="NHWC", num_ffmpeg_threads=1)
        count = len(decoder)
        if indices and max(indices) >= count:
            raise IndexError(f"frame {max(indices)} of a video of {count} frames")
        clip_THWC = decoder.get_frames_at(indices=list(indices) or [0]).data.numpy()[: len(indices)]
    except (RuntimeError, ValueError) as error:
        raise VideoError("undecodable", str(error).splitlines()[0]) from error
    top, left, rows, columns = checked_crop(crop, *clip_THWC.shape[1:3])
    return np.ascontiguousarray(clip_THWC[:, top : top + rows, left : left + columns])
