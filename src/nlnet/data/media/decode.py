"""The frames of a video at given indices, from one of two decoders that give the same."""

from collections.abc import Sequence

import numpy as np

from nlnet.data.media.video import Box

DECODERS = ("pyav", "torchcodec")


def decode_clip(
    data: bytes, indices: Sequence[int] | np.ndarray, *, crop: Box | None = None, decoder: str = "pyav"
) -> np.ndarray:
    """The frames at `indices` as uint8 RGB (T, H, W, 3), in the order of `indices`, which may repeat.

    `crop` is (top, left, height, width) in the upright picture; only that part is converted to RGB and returned.
    `decoder` is "pyav", or "torchcodec" where that is installed; both give the same frames.
    Raises IndexError for an index below 0 or beyond the last frame, VideoError as `probe` does and with the cause
    "wrong size" for a crop outside the picture, ValueError for another decoder.
    """
    if decoder == "pyav":
        from nlnet.data.media.pyav import decode
    elif decoder == "torchcodec":
        from nlnet.data.media.torchcodec import decode
    else:
        raise ValueError(f"decoder {decoder!r} is none of {', '.join(DECODERS)}")
    wanted = [int(index) for index in indices]
    if wanted and min(wanted) < 0:
        raise IndexError(f"frame {min(wanted)}: the first frame is 0")
    return decode(data, wanted, crop)
