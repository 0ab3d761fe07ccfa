"""How fast clips load: from prepared shards, from the original file, and with mmaction2 and decord, in one process.

Clips of 8x8 and 32x2 frames at random places, with the geometry of training: short side scaled to 256-320, 224 x 224
cut out, mirrored half of the time. Ours is what a loader worker does (ranged read, CRC32, tar, decode and crop, tensor)
and, on a line of its own, that with the resize to 224 x 224 that the device does, here on one thread of the processor.
mmaction2's pipeline is DecordInit, SampleFrames, DecordDecode, RandomRescale, RandomCrop, Flip, FormatShape on the
original file. "bare decode" is PyAV alone on the prepared file: seek, decode, keep the wanted frames as they come out.
"4 clips a video" are those of `data.clips_per_video=4`, each counted.

Cases take turns, round after round; figures are medians over the rounds, one thread each. Then the same for other
settings of preparation, with their bytes: the reason for the defaults. Exits with 1 where the ratios are too low.

    python benchmarks/clip_loading.py VIDEO [--rounds 12] [--clips 4]
"""

import argparse
import importlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch
from measure import machine, write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers import mmaction2
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.clip_transforms import random_crop, resized
from nlnet.data.batches.clips import ClipBatches, ClipSettings
from nlnet.data.batches.sampling import ClipGeometry, frame_indices, random_start
from nlnet.data.media import pyav as pyav_decoder
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.encode import encode_frames, transcode
from nlnet.data.media.video import probe
from nlnet.data.prepare.settings import SHORT_SIDE, Settings
from nlnet.data.shards.manifest import Manifest, Sample, Shard
from nlnet.data.shards.reader import read_sample
from nlnet.data.shards.source import DEFAULTS, ShardSource
from nlnet.data.shards.tar import sample_members
from nlnet.data.shards.writer import RawSample, write_shard

GEOMETRIES = {"8x8": ClipGeometry(8, 8), "32x2": ClipGeometry(32, 2)}
SIZE, SCALE = 224, (256, 320)
CLIPS_PER_VIDEO = 4
LEAST_PEER, LEAST_BARE = 3.5, 0.8
PEER, OURS, BARE = "mmaction2, decord, original", "ours, prepared", "bare decode, prepared"
PREPARED = {"short_side": SHORT_SIDE} | {name: getattr(Settings, name) for name in ("gop", "crf", "tune")}
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    *({"gop": gop} for gop in (8, 16, 64, 250)),
    *({"tune": None, "gop": gop} for gop in (8, 16, 32, 250)),
    *({"crf": crf} for crf in (18, 23, 26)),
    {"short_side": 224},
)
Load = Callable[[ClipGeometry, int], object]


class Ours:
    """What a worker does for clip number `n` of a video in a shard."""

    def __init__(self, folder: Path, name: str, video: bytes) -> None:
        info = probe(video)
        path = folder / f"{name}.tar"
        shard, samples = write_shard(path, 0, [RawSample("v", video, info, ())])
        self.shards: tuple[Shard, ...] = (shard,)
        self.sample: Sample = samples[0]
        self.root = str(folder)

    def __call__(self, geometry: ClipGeometry, n: int) -> tuple[torch.Tensor, bool]:
        indices, rng = choose(geometry, self.sample.frames, n)
        crop = random_crop(self.sample.height, self.sample.width, SIZE, SCALE, True, rng)
        data = read_sample(ShardSource(self.root, self.shards, DEFAULTS), self.sample)
        [video] = sample_members(data, ["mp4"]).values()
        clip = decode_clip(video, indices, crop=(crop.top, crop.left, crop.side, crop.side))
        return torch.from_numpy(clip), crop.flip

    def resized(self, geometry: ClipGeometry, n: int) -> torch.Tensor:
        """The same with the device's resize and mirroring: as far as mmaction2's pipeline goes."""
        clip_THWC, flip = self(geometry, n)
        clip_TCHW = resized(clip_THWC.permute(0, 3, 1, 2), SIZE)
        return clip_TCHW.flip(-1) if flip else clip_TCHW


class Several:
    """A worker with `data.clips_per_video=4`: every fourth call reads and decodes for itself and the next three."""

    def __init__(self, ours: Ours) -> None:
        self.ours = ours

    def __call__(self, geometry: ClipGeometry, n: int) -> None:
        if n % CLIPS_PER_VIDEO:
            return
        ours, view = self.ours, ClipSettings(geometry, SIZE, SCALE, True, True)
        manifest = Manifest("v", "train", "multilabel", ("any",), {}, ours.shards, (ours.sample,))
        batches = ClipBatches(manifest, ours.root, view, RankSlice(4), 0, 1, repeats=CLIPS_PER_VIDEO)
        data = read_sample(ShardSource(ours.root, ours.shards, DEFAULTS), ours.sample)
        clips = batches.decode_all(ours.sample, batches.members(ours.sample, data), n)
        assert len([torch.from_numpy(clip.frames) for clip in clips]) == CLIPS_PER_VIDEO


def choose(geometry: ClipGeometry, frames: int, n: int) -> tuple[np.ndarray, np.random.Generator]:
    """The frames of clip number `n`: the same for every case that we choose for."""
    rng = np.random.default_rng(n)
    return frame_indices(geometry, frames, random_start(geometry, frames, rng)), rng


class Bare:
    """PyAV alone; with `skip`, of the pictures that no other refers to it decodes those that are wanted only."""

    def __init__(self, video: bytes, skip: bool) -> None:
        self.video, self.skip, self.frames = video, skip, probe(video).frames

    def __call__(self, geometry: ClipGeometry, n: int) -> list[av.VideoFrame]:
        indices = choose(geometry, self.frames, n)[0]
        wanted, last, kept = set(indices.tolist()), int(indices.max()), []
        with av.open(io.BytesIO(self.video)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            frame_s = (stream.time_base or Fraction(1)) * (stream.average_rate or 1)
            container.seek(int(indices.min() / frame_s), stream=stream)
            for packet in container.demux(stream):
                if self.skip and packet.pts is not None:
                    place = round(packet.pts * frame_s)
                    stream.codec_context.skip_frame = "DEFAULT" if place in wanted else "NONREF"
                for frame in packet.decode():
                    place = round((frame.pts or 0) * frame_s)
                    if place in wanted:
                        kept.append(frame)
                    if place >= last:
                        return kept
        return kept


class Mmaction2:
    """Its training pipeline on a file."""

    def __init__(self, path: Path) -> None:
        import cv2

        cv2.setNumThreads(0)
        transforms = mmaction2.module("mmaction.datasets.transforms")
        tail = [
            transforms.RandomRescale(scale_range=SCALE),
            transforms.RandomCrop(size=SIZE),
            transforms.Flip(flip_ratio=0.5),
            transforms.FormatShape(input_format="NCTHW"),
        ]
        self.path = str(path)
        self.pipelines = {
            g: [
                transforms.DecordInit(),
                transforms.SampleFrames(clip_len=g.frames, frame_interval=g.stride, num_clips=1),
                transforms.DecordDecode(),
                *tail,
            ]
            for g in GEOMETRIES.values()
        }

    def __call__(self, geometry: ClipGeometry, n: int) -> torch.Tensor:
        np.random.seed(n)
        results: dict[str, Any] = {"filename": self.path, "start_index": 0, "modality": "RGB", "label": 0}
        for transform in self.pipelines[geometry]:
            results = transform(results)
        return torch.from_numpy(np.ascontiguousarray(results["imgs"]))


@contextmanager
def planes_only() -> Iterator[None]:
    """Our decoder with its frames left in YUV 4:2:0: planes cut to the crop, no colors made."""
    painter = vars(pyav_decoder)["_Painter"]
    cut, rgb = vars(pyav_decoder)["_cut"], painter._rgb

    def planes(self: Any, frames: list[av.VideoFrame], box: tuple[int, int, int, int]) -> list[int]:
        cut(frames, *(side // 2 * 2 for side in box))
        return [0] * len(frames)

    painter._rgb = planes
    try:
        yield
    finally:
        painter._rgb = rgb


def as_planes(ours: Ours) -> Load:
    """What a worker would do if it left the colors to the device."""

    def load(geometry: ClipGeometry, n: int) -> object:
        with planes_only():
            return ours(geometry, n)

    return load


def rates(cases: dict[str, Load], rounds: int, clips: int) -> dict[str, dict[str, float]]:
    """Clips a second of each case and geometry: the median over the rounds, in which they take turns."""
    seconds: dict[str, dict[str, list[float]]] = {name: {g: [] for g in GEOMETRIES} for name in cases}
    for number in range(-1, rounds):
        for geometry_name, geometry in GEOMETRIES.items():
            for name, load in cases.items():
                begin = time.perf_counter()
                for n in range(clips if number >= 0 else 2):
                    load(geometry, clips * number + n if number >= 0 else n)
                if number >= 0:  # the one before the first warms up
                    seconds[name][geometry_name].append(time.perf_counter() - begin)
    return {name: {g: clips / median(times) for g, times in row.items()} for name, row in seconds.items()}


def loading(folder: Path, source: Path, rounds: int, clips: int) -> tuple[dict[str, Any], bool]:
    """The first table; whether both ratios are high enough."""
    original, video = source.read_bytes(), transcode(source, **PREPARED)
    ours, before = Ours(folder, "prepared", video), Ours(folder, "original", original)
    cases: dict[str, Load] = {
        PEER: Mmaction2(source),
        "ours, original": before,
        OURS: ours,
        "ours, prepared, and resize": ours.resized,
        f"ours, original, {CLIPS_PER_VIDEO} clips a video": Several(before),
        f"ours, prepared, {CLIPS_PER_VIDEO} clips a video": Several(ours),
        "ours, prepared, left as YUV 4:2:0": as_planes(ours),
        BARE: Bare(video, skip=False),
        "bare decode, what is needed only": Bare(video, skip=True),
    }
    measured = rates(cases, rounds, clips)
    print(f"\n{source.name}, prepared with {words(PREPARED)}: {len(video) / len(original):.2f} of its bytes")
    print(f"| clips a second | {' | '.join(GEOMETRIES)} | to mmaction2 | to bare decode |\n|{' --- |' * 5}")
    for name, row in measured.items():
        peer, bare = ([row[g] / measured[to][g] for g in GEOMETRIES] for to in (PEER, BARE))
        cells = [f"{rate:.1f}" for rate in row.values()] + [" / ".join(f"{x:.2f}" for x in r) for r in (peer, bare)]
        print(f"| {name} | {' | '.join(cells)} |")
    good = all(measured[OURS][g] >= LEAST_PEER * measured[PEER][g] for g in GEOMETRIES)
    return measured, good and all(measured[OURS][g] >= LEAST_BARE * measured[BARE][g] for g in GEOMETRIES)


def tiled(source: Path) -> bytes:
    """Four copies of a video in one of twice its sides: as much detail as a large recording has."""
    frames_THWC = decode_clip(source.read_bytes(), range(0, probe(source).frames))
    return encode_frames(np.tile(frames_THWC, (1, 2, 2, 1)), probe(source).fps, crf=16, gop=250)


def words(settings: dict[str, Any]) -> str:
    """Settings as they are typed."""
    return " ".join(f"{name}={'null' if value is None else value}" for name, value in settings.items())


def trade_off(
    folder: Path, title: str, source: bytes, changes: Sequence[dict[str, Any]], rounds: int, clips: int
) -> list[dict[str, Any]]:
    """A table of settings: bytes, PSNR where the size stays, clips a second."""
    with ThreadPoolExecutor() as pool:
        videos = list(pool.map(lambda change: transcode(source, **(PREPARED | change)), changes))
    cases: dict[str, Load] = {str(i): Ours(folder, f"{title}-{i}", video) for i, video in enumerate(videos)}
    measured = rates(cases, rounds, clips)
    print(f"\n| {title}, prepared with | bytes | PSNR dB | {' | '.join(GEOMETRIES)} |\n|{' --- |' * 5}")
    rows = []
    for i, (change, video) in enumerate(zip(changes, videos, strict=True)):
        row = {"settings": PREPARED | change, "bytes": len(video) / len(source), "psnr": psnr(source, video)}
        row["clips_per_second"] = measured[str(i)]
        rows.append(row)
        name = words(change) or f"the defaults, {words(PREPARED)}"
        cells = [f"{len(video) / len(source):.2f}", f"{row['psnr']:.1f}" if row["psnr"] else ""]
        print(f"| {name} | {' | '.join([*cells, *(f'{rate:.1f}' for rate in measured[str(i)].values())])} |")
    return rows


def psnr(one: bytes, other: bytes) -> float | None:
    """Peak signal to noise in dB over every tenth frame; None for pictures of different sizes."""
    a, b = probe(one), probe(other)
    if (a.width, a.height) != (b.width, b.height):
        return None
    places = range(0, min(a.frames, b.frames), 10)
    error = decode_clip(one, places).astype(np.float32) - decode_clip(other, places)
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def main() -> int:
    """Measures, prints, writes, and says by the exit code whether loading is fast enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="an original video, some 340 x 256 as Kinetics has them")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--clips", type=int, default=4, help="a round (default 4)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine() | versions(), "video": options.video.name}
    with tempfile.TemporaryDirectory() as name:
        folder, few = Path(name), max(1, options.rounds // 3)
        results["loading"], good = loading(folder, options.video, options.rounds, options.clips)
        source = options.video.read_bytes()
        results["trade_off"] = trade_off(folder, options.video.stem, source, CHANGES, few, options.clips)
        sides = [{"short_side": side} for side in (256, 288, 320, 512)]
        results["short_side"] = trade_off(folder, "four of it in one", tiled(options.video), sides, few, options.clips)
    write_json("clip_loading", results)
    return int(not good)


def versions() -> dict[str, str]:
    """Those that the figures depend on."""
    names = {"av": "av", "mmaction2": "mmaction", "decord": "decord"}
    return {name: importlib.import_module(module).__version__ for name, module in names.items()}


if __name__ == "__main__":
    sys.exit(main())
