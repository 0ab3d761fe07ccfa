"""How many videos a second one core prepares, beside bare transcoding with PyAV, and threads beside processes.

Preparation reads a folder of copies of one video and writes shards, with the defaults. Bare transcoding is PyAV's loop
alone: open, decode, scale, encode with the same x264 options into memory. Pools are as many threads or processes as
there are cores, which call the same function; the processes are up before the clock starts. Cases take turns; figures
are medians over the rounds: videos a second by the clock, and a second of processor time, which is what one core makes
whatever else it has to do. Exits with 1 where preparation falls below 0.9 of bare transcoding by the latter.

    python benchmarks/prepare_rate.py VIDEO [--videos 1] [--rounds 3]
"""

import argparse
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import av
from measure import machine, write_json

from nlnet.data.media.encode import transcode
from nlnet.data.prepare.run import prepare
from nlnet.data.prepare.settings import SHORT_SIDE, Settings

LEAST = 0.9
CORES = os.cpu_count() or 1
Rates = tuple[float, float]
OPTIONS = {
    "preset": "medium", "tune": "fastdecode", "crf": "20", "g": "32", "bf": "3", "b_strategy": "0",
    "b-pyramid": "none", "mbtree": "0",
}  # fmt: skip


def bare(path: Path) -> int:
    """The bytes of a video after PyAV's plain loop."""
    file = io.BytesIO()
    with av.open(path) as source, av.open(file, "w", format="mp4") as target:
        before = source.streams.video[0]
        before.thread_count = 1
        after = target.add_stream("libx264", rate=before.average_rate, options=OPTIONS)
        scale = min(1, SHORT_SIDE / min(before.width, before.height))
        after.width, after.height = (round(side * scale / 2) * 2 for side in (before.width, before.height))
        after.pix_fmt, after.codec_context.thread_count = "yuv420p", 1
        for frame in source.decode(before):
            scaled = frame.reformat(after.width, after.height, "yuv420p", threads=1)
            scaled.pict_type = 0
            target.mux(after.encode(scaled))
        target.mux(after.encode(None))
    return file.tell()


def ours(path: Path) -> int:
    """The same with what preparation calls."""
    return len(transcode(path))


def processor_seconds(function: Callable[[Path], int], path: Path) -> float:
    """Of one call, which does everything in its own thread."""
    begin = time.thread_time()
    assert function(path)
    return time.thread_time() - begin


def with_pool(pool: Executor, function: Callable[[Path], int], paths: list[Path]) -> Rates:
    """Videos a second, by the clock and of processor time."""
    begin = time.perf_counter()
    spent = sum(pool.map(partial(processor_seconds, function), paths))
    return len(paths) / (time.perf_counter() - begin), len(paths) / spent


def with_prepare(source: Path, count: int, workers: int) -> Rates:
    """The same of the whole command, from the annotations to the manifest."""
    with tempfile.TemporaryDirectory() as out:
        settings = Settings("charades", Path(out) / "shards", source, source, workers=workers, short_side=SHORT_SIDE)
        begin, spent = time.perf_counter(), time.process_time()
        prepare(settings, lambda _: None)
        return count / (time.perf_counter() - begin), count / (time.process_time() - spent)


def copies(folder: Path, video: Path, count: int) -> list[Path]:
    """A folder as the Charades release has it."""
    paths = [folder / f"V{k}{video.suffix}" for k in range(count)]
    for path in paths:
        shutil.copyfile(video, path)
    rows = "".join(f"{path.stem},c000 0 1\n" for path in paths)
    (folder / "Charades_v1_train.csv").write_text("id,actions\n" + rows)
    return paths


def measure(video: Path, count: int, rounds: int) -> dict[str, list[Rates]]:
    """Videos a second of every case, by round."""
    several = count * CORES  # as many a core as in the cases with one
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as more,
        ThreadPoolExecutor(1) as single,
        ThreadPoolExecutor(CORES) as threads,
        ProcessPoolExecutor(CORES, mp_context=get_context("forkserver")) as processes,
    ):
        few, many = copies(Path(one), video, count), copies(Path(more), video, several)
        cases: dict[str, Callable[[], Rates]] = {
            "bare transcoding, one thread": lambda: with_pool(single, bare, few),
            "preparation, one thread": lambda: with_prepare(Path(one), count, 1),
            f"bare transcoding, {CORES} threads": lambda: with_pool(threads, bare, many),
            f"preparation, {CORES} threads": lambda: with_prepare(Path(more), several, CORES),
            f"its function, {CORES} threads": lambda: with_pool(threads, ours, many),
            f"its function, {CORES} processes": lambda: with_pool(processes, ours, many),
        }
        with_pool(processes, ours, many[:CORES])  # starts them
        measured: dict[str, list[Rates]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, case in cases.items():
                measured[name].append(case())
    return measured


def main() -> int:
    """Measures, prints, writes, and says by the exit code whether preparation is fast enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="a video such as the data set's")
    parser.add_argument("--videos", type=int, default=1, help="a core and round (default 1)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measured = measure(options.video, options.videos, options.rounds)
    clock, core = ({name: median(r[i] for r in values) for name, values in measured.items()} for i in (0, 1))
    print("| | videos/s | videos/s of processor time |\n| --- | --- | --- |")
    for name in measured:
        print(f"| {name} | {clock[name]:.3f} | {core[name]:.3f} |")
    ratio = core["preparation, one thread"] / core["bare transcoding, one thread"]
    pools = clock[f"its function, {CORES} threads"] / clock[f"its function, {CORES} processes"]
    print(f"preparation to bare transcoding: {ratio:.2f} (at least {LEAST}); threads to processes: {pools:.2f}")
    about = {"machine": machine() | {"cores": CORES, "av": av.__version__}, "video": options.video.name}
    write_json(
        "prepare_rate", about | {"videos_per_second": measured, "ratio_to_bare": ratio, "threads_to_processes": pools}
    )
    return int(ratio < LEAST)


if __name__ == "__main__":
    sys.exit(main())
