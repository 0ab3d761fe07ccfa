"""Orders and manifests at the size of the largest data sets, simulated: 10^6 to 10^8 clips on 4,096 ranks.

The order: seconds and memory to make that of an epoch, to find a rank's batch in it at the beginning, in the middle and
near the end, and to go on from batch to batch; beside it the order as one permutation, which is what smaller sets have
(`nlnet.data.batches.order`). Every global batch is asked for, and each sample counted: once, but for those that do not
fill the last batch. The ranks' parts of some batches are put together and compared. Requests: the ranges that a rank's
batch is read in, neighbors in one, times the batches a second. The manifest: bytes a sample in columns, in JSON, and as
objects, and seconds to read it, from one of 10^6 samples.

    python benchmarks/scale.py [--samples 1000000 10000000 100000000] [--listed 1000000]

`--table` prints the tables of docs/scale.md from the last results instead.
"""

import argparse
import json
import pickle
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import starmap
from types import SimpleNamespace
from typing import Any

import numpy as np
from measure import RESULTS, machine, write_json

from nlnet.data.batches import order as orders
from nlnet.data.batches.order import Order, Shards, WindowedOrder, epoch_order, train_batch
from nlnet.data.modules.fingerprint import hashed_samples
from nlnet.data.shards.columns.samples import NUMBERS, columns_of
from nlnet.data.shards.manifest import Manifest, Shard
from nlnet.data.shards.reader import merge

RANKS, PER_RANK, PER_SHARD, WINDOW = 4096, 8, 1000, 8
CLIP_BYTES = 300_032
CLIPS_PER_SECOND = 20  # of one rank: an assumption, of I3D-NL R50 8x8 in bfloat16 on a data-center GPU
BATCH = RANKS * PER_RANK
POSITIONS = (0.0, 0.5, 0.99)


def measured(fn: Callable[[], Any]) -> tuple[Any, float, float]:
    """What `fn` returns, its seconds of the processor, and the most megabytes that were allocated in it."""
    began = time.process_time()
    fn()
    seconds = time.process_time() - began
    tracemalloc.start()
    result = fn()
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return result, seconds, megabytes


def order_figures(samples: int) -> dict[str, Any]:
    """The order of an epoch of so many samples: cost, coverage, requests."""
    shard_of = (np.arange(samples) // PER_SHARD).astype(np.int32)
    shards, listing, _ = measured(lambda: Shards(shard_of))
    windowed = measured(lambda: _windowed(shards))
    batches = samples // BATCH
    found = {
        f"{p:g}": measured(lambda p=p: train_batch(_windowed(shards), int(p * batches), BATCH, RANKS - 1, RANKS))[1]
        for p in POSITIONS
    }
    order: Order = windowed[0]
    step = measured(lambda: [train_batch(order, t, BATCH, 7, RANKS) for t in range(min(20, batches))])[1]
    whole = measured(lambda: _whole(shards))
    return {
        "samples": samples,
        "shards_seconds": listing,
        "epoch_seconds": windowed[1],
        "epoch_megabytes": windowed[2],
        "position_seconds": found,
        "batch_seconds": step / min(20, batches),
        "whole_seconds": whole[1],
        "whole_megabytes": whole[2],
        "left_out": _coverage(order, samples, batches),
        "ranks_agree": all(_ranks_agree(order, int(p * batches)) for p in POSITIONS),
        "requests_a_clip": _requests(order, shard_of, batches),
    }


def _windowed(shards: Shards) -> Order:
    return WindowedOrder(shards, np.random.default_rng((0, 3)).permutation(len(shards.names)), (0, 3), WINDOW)


def _whole(shards: Shards) -> Order:
    orders.WHOLE = len(shards)
    return epoch_order(shards, 0, 3, WINDOW)


def _coverage(order: Order, samples: int, batches: int) -> int:
    """How many samples no batch has; every other one is in exactly one."""
    seen = np.zeros(samples, np.uint8)
    for t in range(batches):
        seen[train_batch(order, t, BATCH, 0, 1)] += 1
    if seen.max() > 1 or int((seen == 0).sum()) != samples % BATCH:
        raise SystemExit("a sample is in two batches, or missing")
    return samples % BATCH


def _ranks_agree(order: Order, t: int) -> bool:
    parts = [train_batch(order, t, BATCH, rank, RANKS) for rank in range(RANKS)]
    return bool(np.array_equal(np.concatenate(parts), train_batch(order, t, BATCH, 0, 1)))


def _requests(order: Order, shard_of: np.ndarray, batches: int) -> float:
    """Ranges that are asked for, a clip: those of a rank's batch that lie near each other are one."""
    requests = clips = 0
    for t in range(0, batches, max(1, batches // 20)):
        for rank in range(0, RANKS, 257):
            part = train_batch(order, t, BATCH, rank, RANKS)
            requests += len(merge(list(starmap(_located, zip(shard_of[part], part % PER_SHARD, strict=True)))))
            clips += len(part)
    return requests / clips


def _located(shard: int, row: int) -> Any:
    return SimpleNamespace(key="", shard=int(shard), offset=int(row) * CLIP_BYTES, length=CLIP_BYTES, crc32=0)


def manifest_figures(samples: int) -> dict[str, Any]:
    """What a manifest of so many samples takes."""
    k = np.arange(samples)
    numbers = {"shard": k // PER_SHARD, "offset": k % PER_SHARD * CLIP_BYTES, "length": np.full(samples, CLIP_BYTES)}
    numbers |= {"crc32": k * 2654435761 % (1 << 32), "frames": np.full(samples, 300), "fps": np.full(samples, 29.97)}
    numbers |= {"width": np.full(samples, 340), "height": np.full(samples, 256)}
    assert set(numbers) == set(NUMBERS)
    keys = [f"{i:011x}_{i % 1000:06d}_{i % 1000 + 10:06d}" for i in range(samples)]
    labels = [((i % 400, 0.0, 10.01),) for i in range(samples)]
    columns = columns_of(numbers, keys, labels, [()] * samples)
    counts = np.bincount(numbers["shard"]).tolist()
    shards = tuple(Shard(f"m-train-{s:06d}.tar", n, PER_SHARD * CLIP_BYTES, "0" * 64) for s, n in enumerate(counts))
    manifest = Manifest("m", "train", "multiclass", tuple(f"c{c}" for c in range(400)), {}, shards, columns)
    text = manifest.to_json().encode()
    del keys, labels
    tracemalloc.start()
    listed = list(columns[: samples // 10])
    objects = tracemalloc.get_traced_memory()[0] / len(listed)
    tracemalloc.stop()
    times = {}
    for name, fn in (
        ("read_seconds", lambda: Manifest.from_json(text, "m")),
        ("digest_seconds", columns.digest),
        ("hash_seconds", lambda: hashed_samples(manifest)),
    ):
        began = time.process_time()
        fn()
        times[name] = time.process_time() - began
    return {
        "samples": samples,
        "json_bytes_a_sample": len(text) / samples,
        "column_bytes_a_sample": len(pickle.dumps(columns, protocol=5)) / samples,
        "object_bytes_a_sample": objects,
        **times,
    }


def order_table(results: dict[str, Any]) -> str:
    """The rows of the first table of docs/scale.md."""
    heads = ["clips", "order of an epoch", "its memory", "a rank's batch at 0 / 50 / 99 %", "each further batch"]
    lines = [_row(*heads, "as one permutation"), _row(*["---"] * 6)]
    for row in results["orders"]:
        found = " / ".join(f"{1000 * seconds:.1f}" for seconds in row["position_seconds"].values())
        whole = f"{row['whole_seconds']:.2g} s, {row['whole_megabytes']:,.0f} MB"
        epoch = (f"{1000 * row['epoch_seconds']:.2g} ms", f"{row['epoch_megabytes']:.2g} MB")
        lines.append(_row(f"{row['samples']:,}", *epoch, f"{found} ms", f"{1000 * row['batch_seconds']:.2g} ms", whole))
    return "\n".join(lines)


def manifest_table(results: dict[str, Any]) -> str:
    """The rows of the second."""
    row = results["manifest"]
    heads = ["clips", "JSON", "read in", "columns, once a rank", "as objects, in every process", "digest"]
    lines = [_row(*heads, "hashes of all"), _row(*["---"] * 7)]
    for samples in (10**6, 10**7, 10**8):
        sizes = (row[f"{name}_bytes_a_sample"] * samples / 1e9 for name in ("json", "column", "object"))
        text, columns, objects = (f"{size:,.2g} GB" for size in sizes)
        times = (row[f"{name}_seconds"] * samples / row["samples"] for name in ("read", "digest", "hash"))
        read, digest, hashes = (f"{seconds:,.0f} s" if seconds >= 1 else f"{seconds:.1g} s" for seconds in times)
        lines.append(_row(f"{samples:,}", text, read, columns, objects, digest, hashes))
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--listed", type=int, default=10**6)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args(arguments)
    if not options.table:
        setting = {"ranks": RANKS, "per_rank": PER_RANK, "per_shard": PER_SHARD, "window": WINDOW}
        setting |= {"clip_bytes": CLIP_BYTES, "clips_per_second_of_a_rank": CLIPS_PER_SECOND}
        found = [order_figures(samples) for samples in options.samples]
        rate = RANKS * CLIPS_PER_SECOND * found[-1]["requests_a_clip"]
        results = {"machine": machine(), "setting": setting, "orders": found, "requests_a_second": rate}
        print(write_json("scale", results | {"manifest": manifest_figures(options.listed)}))
    results = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))
    print(order_table(results), manifest_table(results), f"{results['requests_a_second']:,.0f} requests/s", sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
