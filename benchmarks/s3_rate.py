"""What reading shards from S3 costs: the processor's time and the wall time a clip, beside the same from local files.

One loader process reads and decodes 8x8 clips at 224 x 224 from shards on a disk, and from nginx on loopback, which is
asked as S3 is: signed, ranged GETs of s3://bucket/key. The server has one core of its own where there are two, and its
processor time is counted apart: on a cluster it is somebody else's. What counts is that of the loader process.

Rounds alternate, figures are medians. Each round reads the set once, the operating system's cache warm. Exits with 1
where a clip from S3 takes more than 1.15 times the processor time of a local one.

    python benchmarks/s3_rate.py [--video FILE] [--clips 160] [--rounds 5]     (Debian: nginx-light)
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from measure import machine, write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.servers import nginx_server, s3_at
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.media.encode import encode_frames
from nlnet.data.media.video import probe
from nlnet.data.shards.find import load_manifest
from nlnet.data.shards.manifest import Manifest, write_manifest
from nlnet.data.shards.writer import RawSample, write_shard

MOST = 1.15
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


def processor_s(pids: Iterable[int]) -> float:
    """Seconds that the processor has spent on these processes, in all of their threads."""
    ticks = 0
    for pid in pids:
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def server_pids() -> list[int]:
    """nginx's processes below this one: its master and its workers."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    found = {int(text.split()[0]): int(text.rpartition(")")[2].split()[1]) for text in stats if "(nginx)" in text}
    return [pid for pid, parent in found.items() if os.getpid() in (parent, found.get(parent))]


@contextmanager
def server(bucket: Path, folder: Path) -> Iterator[str]:
    """nginx with the bucket on loopback, on the last core where there are several; gives its "host:port"."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})  # a child has its parent's
    try:
        with nginx_server(bucket.parent, folder) as address:
            os.sched_setaffinity(0, cores - {max(cores)} or cores)
            yield address
    finally:
        os.sched_setaffinity(0, cores)


class Rate:
    """Clips a second from one place, and the processor's seconds a clip; an epoch a call, in a process that stays."""

    def __init__(self, root: str) -> None:
        manifest = load_manifest(root, "rate", "train")
        view = ClipSettings(ClipGeometry(8, 8), size=224, scale=(256, 320), flip=True, train=True)
        self.loader = BatchLoader(ClipBatches(manifest, root, view, RankSlice(BATCH), 0, SHARDS), num_workers=1)

    def __call__(self) -> tuple[float, float]:
        began, before, clips = time.perf_counter(), self._processor_s(), 0
        for batch in self.loader:
            assert not batch["failures"], batch["failures"]
            clips += len(batch["weights"])
        return clips / (time.perf_counter() - began), (self._processor_s() - before) / clips

    def _processor_s(self) -> float:
        iterator = self.loader._loader._iterator
        return processor_s(worker.pid for worker in iterator._workers) if iterator is not None else 0.0


def main() -> int:
    """Measure, print, write, and say by the exit code whether S3 is fast enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="a prepared video to fill the shards with, instead of a made-up one")
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    video = options.video.read_bytes() if options.video else made_up_video()
    measured: dict[str, list[tuple[float, float]]] = {"local files": [], "S3 on loopback": []}
    with tempfile.TemporaryDirectory() as name:
        bucket = Path(name) / "videos"
        (bucket / "rate").mkdir(parents=True)
        size = write_shards(bucket / "rate", video, options.clips)
        with server(bucket, Path(name)) as address, s3_at(address):
            rates = dict(zip(measured, (Rate(str(bucket / "rate")), Rate("s3://videos/rate")), strict=True))
            for rate in rates.values():
                rate()  # starts the process, fills the caches
            before = processor_s(server_pids())
            for _ in range(options.rounds):
                for place, rate in rates.items():
                    measured[place].append(rate())
            served = (processor_s(server_pids()) - before) / (options.rounds * options.clips)
            for rate in rates.values():
                rate.loader.close()
    wall, processor = ({place: [v[k] for v in values] for place, values in measured.items()} for k in (0, 1))
    ratio = median(processor["S3 on loopback"]) / median(processor["local files"])
    print(f"{options.clips} clips of {len(video) / 1e6:.2f} MB, one loader process; nginx {served * 1e3:.2f} ms a clip")
    for place in measured:
        cost = f"{median(processor[place]) * 1e3:.2f} ms of the processor a clip"
        print(f"  {place:<16}{median(wall[place]):8.1f} clips/s, {cost}")
    print(f"  ratio           {ratio:8.3f} of the processor's time (at most {MOST})")
    results = {"clips": options.clips, "bytes": size, "clips_per_second": wall, "processor_s_per_clip": processor}
    write_json("s3_rate", {"machine": machine(), **results, "server_processor_s_per_clip": served, "ratio": ratio})
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
