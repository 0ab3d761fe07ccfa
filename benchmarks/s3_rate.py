"""What reading shards from S3 costs: clips a second from a server on loopback, beside the same shards from local files.

One loader process reads and decodes 8x8 clips at 224 x 224; the server runs beside it. Requests are those of S3:
signed, ranged GETs of s3://bucket/key. They are answered by nginx, which sends a range of a file as object storage
does, and where it is missing by moto, which reads a whole object for every range. Rounds alternate, the ratio is of
the medians. Each round reads the set once, the operating system's cache warm. Exits with 1 below 0.9.

    python benchmarks/s3_rate.py [--video FILE] [--clips 160] [--rounds 5]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from measure import machine, write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.servers import NGINX, nginx_server, s3_at, s3_server
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.media.encode import encode_frames
from nlnet.data.media.video import probe
from nlnet.data.shards.find import load_manifest
from nlnet.data.shards.manifest import Manifest, write_manifest
from nlnet.data.shards.writer import RawSample, write_shard

LEAST = 0.9
BATCH = 8
SHARDS = 16


def made_up_video() -> bytes:
    """Ten seconds of drifting texture, 340 x 288, encoded as preparation does: about as many bytes as a real one."""
    rng = np.random.default_rng(0)
    canvas = np.kron(rng.integers(0, 256, (60, 90, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = np.stack([canvas[k % 90 : k % 90 + 288, k % 180 : k % 180 + 340] for k in range(300)])
    return encode_frames(frames, 30.0, crf=23, gop=16)


def write_shards(folder: Path, video: bytes, clips: int) -> int:
    """`clips` copies of the video in shards; the bytes of all."""
    info = probe(video)
    shards, samples = [], []
    for s, part in enumerate(np.array_split(np.arange(clips), SHARDS)):
        raws = [RawSample(f"c{k}", video, info, ((0, 0.0, info.duration),)) for k in part]
        shard, rows = write_shard(folder / f"rate-train-{s:06d}.tar", s, raws)
        shards.append(shard)
        samples += rows
    write_manifest(folder, Manifest("rate", "train", "multilabel", ("any",), {}, tuple(shards), tuple(samples)))
    return sum(shard.bytes for shard in shards)


@contextmanager
def server(bucket: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """An S3 server of `bucket`/rate on loopback: "host:port", and what it is."""
    if NGINX:
        with nginx_server(bucket.parent, folder) as address:
            yield address, "nginx"
    else:
        with s3_server(bucket / "rate", bucket.name, "rate") as address:
            yield address, "moto"


class Rate:
    """Clips a second from one place, an epoch a call, in a loader process that stays."""

    def __init__(self, root: str) -> None:
        manifest = load_manifest(root, "rate", "train")
        view = ClipSettings(ClipGeometry(8, 8), size=224, scale=(256, 320), flip=True, train=True)
        self.loader = BatchLoader(ClipBatches(manifest, root, view, RankSlice(BATCH), 0, SHARDS), num_workers=1)

    def __call__(self) -> float:
        began, clips = time.perf_counter(), 0
        for batch in self.loader:
            assert not batch["failures"], batch["failures"]
            clips += len(batch["weights"])
        return clips / (time.perf_counter() - began)


def main() -> int:
    """Measure, print, write, and say by the exit code whether S3 is fast enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="a prepared video to fill the shards with, instead of a made-up one")
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    video = options.video.read_bytes() if options.video else made_up_video()
    with tempfile.TemporaryDirectory() as name:
        bucket = Path(name) / "videos"
        (bucket / "rate").mkdir(parents=True)
        size = write_shards(bucket / "rate", video, options.clips)
        with server(bucket, Path(name)) as (address, program), s3_at(address):
            rates = {"local files": Rate(str(bucket / "rate")), "S3 on loopback": Rate("s3://videos/rate")}
            for rate in rates.values():
                rate()  # starts the process, fills the caches
            measured: dict[str, list[float]] = {place: [] for place in rates}
            for _ in range(options.rounds):
                for place, rate in rates.items():
                    measured[place].append(rate())
            for rate in rates.values():
                rate.loader.close()
    local, remote = (median(values) for values in measured.values())
    print(f"{options.clips} clips of {len(video) / 1e6:.2f} MB, one loader process, {program}")
    for place, values in measured.items():
        print(f"  {place:<16}{median(values):8.1f} clips/s   ({', '.join(f'{value:.1f}' for value in values)})")
    print(f"  ratio           {remote / local:8.2f}           (at least {LEAST})")
    results = {"clips": options.clips, "bytes": size, "clips_per_second": measured, "ratio": remote / local}
    write_json("s3_rate", {"machine": machine(), "server": program, **results})
    return int(remote / local < LEAST)


if __name__ == "__main__":
    sys.exit(main())
