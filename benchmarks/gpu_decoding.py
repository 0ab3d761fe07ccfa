"""Clips decoded on a GPU, where torchcodec can: clips a second beside the loader's decoder, and how alike they are.

A clip is 8 frames, every eighth, of a made-up H.264 video of 340 x 288, as preparation writes them. The frames of both
are compared by their PSNR: a GPU converts colors its own way. One decoder each, one after the other.

    python benchmarks/gpu_decoding.py [--device cuda] [--clips 50]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import machine, write_json
from s3_rate import made_up_video

from nlnet.data.media.decode import decode_clip

FRAMES, STRIDE = 8, 8


def on_device(device: str) -> Callable[[bytes, list[int]], np.ndarray]:
    """torchcodec on a device: (T, H, W, 3) of a video. Raises ImportError or RuntimeError where it cannot be had."""
    from torchcodec.decoders import VideoDecoder

    def decode(video: bytes, places: list[int]) -> np.ndarray:
        decoder = VideoDecoder(video, device=device, seek_mode="exact", dimension_order="NHWC")
        return decoder.get_frames_at(places).data.cpu().numpy()

    return decode


def rate(decode: Callable[[bytes, list[int]], Any], video: bytes, clips: int) -> float:
    """Clips a second."""
    began = time.perf_counter()
    for start in np.random.default_rng(0).integers(0, 300 - FRAMES * STRIDE, clips).tolist():
        decode(video, list(range(start, start + FRAMES * STRIDE, STRIDE)))
    return clips / (time.perf_counter() - began)


def measure(device: str, clips: int) -> dict[str, Any]:
    video = made_up_video()
    try:
        theirs = on_device(device)
        places = list(range(0, FRAMES * STRIDE, STRIDE))
        apart = theirs(video, places).astype(np.float32) - decode_clip(video, places)
    except (ImportError, RuntimeError, OSError) as error:
        return {"skipped": f"torchcodec does not decode on {device} here: {str(error).splitlines()[0]}"}
    psnr = float(10 * np.log10(255**2 / max(float(np.mean(apart**2)), 1e-9)))
    return {
        f"torchcodec on {device}, clips/s": rate(theirs, video, clips),
        "the loader's decoder, clips/s": rate(decode_clip, video, clips),
        "PSNR of the two, dB": psnr,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=50)
    arguments = parser.parse_args()
    found = measure(arguments.device, arguments.clips)
    print(found)
    write_json("gpu_decoding", {"machine": machine(arguments.device), **found})


if __name__ == "__main__":
    main()
