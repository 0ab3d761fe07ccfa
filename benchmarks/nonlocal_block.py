"""What a whole non-local block costs, forward and backward: ours, the materialized form, the peers, and the floor.

The floor is the same block with the pairwise step left out: four 1x1x1 convolutions, pool, norm and sum. Peers are
mmcv's `NonLocal3d` and pytorchvideo's `create_nonlocal`, where they are installed; they take the default layout only.
Sizes are maps of res3 (512 channels, 28x28) and res4 (1024, 14x14) with T frames: T is 4 for 8x8 and 32x2 clips and 16
for 32x4 and 128x1 ones. All cases run in turn, round after round, so each sees the same machine; time is the median of
the rounds. Memory is the peak of live tensor bytes beyond input and weights (`measure.live_bytes_peak`), which the
other cases of the process do not change. Sizes are merged into the JSON, so that a long measurement can be made in
parts.

    python benchmarks/nonlocal_block.py [--device cuda] [--dtype bfloat16] [--rounds 5] [--stages res3] [--frames 16]
"""

import argparse
import gc
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import RESULTS, live_bytes_peak, machine, median_seconds, write_json
from torch import Tensor, nn

from nlnet import NonLocalBlock, ops

MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
LAYOUTS = {"": torch.contiguous_format, ", channels last": torch.channels_last_3d}
STAGES = {"res3": (512, 28), "res4": (1024, 14)}
KINDS = ("floor", "ours", "materialized", "mmcv", "pytorchvideo")
Case = Callable[[int], nn.Module]


class Floor(NonLocalBlock):
    """The block without its pairwise step; phi and g still count, so that their convolutions run both ways."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query + (key.mean(1) + value.mean(1))[:, None]


class Materialized(NonLocalBlock):
    """The block with the (N, M) map stored."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return ops.PAIRWISE[self.pairwise](query, key, value, **self._scale(), algorithm="materialized")

    def _sums_first(self, query: Tensor, key: Tensor) -> bool:
        return False


def mmcv_block(channels: int, mode: str) -> nn.Module:
    from mmcv.cnn.bricks import NonLocal3d

    return NonLocal3d(channels, sub_sample=True, norm_cfg={"type": "BN3d"}, mode=mode)


def pytorchvideo_block(channels: int, mode: str) -> nn.Module:
    from pytorchvideo.layers.nonlocal_net import create_nonlocal

    return create_nonlocal(dim_in=channels, dim_inner=channels // 2, pool_size=(1, 2, 2), instantiation=mode)


def all_cases() -> dict[str, Case]:
    """A maker of each block by its name in the table; peers that are not installed are left out, and named."""
    cases: dict[str, Case] = {"floor": Floor}
    cases |= {f"ours {mode}": partial(NonLocalBlock, pairwise=mode) for mode in MODES}
    cases |= {f"materialized {mode}": partial(Materialized, pairwise=mode) for mode in MODES}
    peers: dict[str, Case] = {f"mmcv {mode}": partial(mmcv_block, mode=mode) for mode in MODES[:3]}
    for mode, name in (("embedded_gaussian", "softmax"), ("dot_product", "dot_product")):
        peers[f"pytorchvideo {mode}"] = partial(pytorchvideo_block, mode=name)
    for name, make in peers.items():
        try:
            make(8)
        except ImportError as error:
            print(f"{name} is left out: {error}")
        else:
            cases[name] = make
    return cases


def step(make: Case, channels: int, size: tuple[int, int, int], layout: torch.memory_format, **to: Any) -> Any:
    """One forward and backward of a trained-like block on one clip, as a function."""
    torch.manual_seed(0)
    block = make(channels).to(**to)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    # of unit size, the Gaussian's x_i . x_j would make softmax tails that are denormal numbers, 50 times slower for all
    x = (0.1 * torch.randn(1, channels, *size, **to)).contiguous(memory_format=layout).requires_grad_()
    z_gradient = torch.randn(1, channels, *size, **to).contiguous(memory_format=layout)

    def run() -> None:
        x.grad = None
        block.zero_grad(set_to_none=True)
        block(x).backward(z_gradient)

    return run


def measure(
    kinds: list[str], stage: str, frames: int, rounds: int, device: str, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """Seconds and MiB of the cases of some kinds at one size."""
    channels, side = STAGES[stage]
    steps = {
        name + suffix: step(make, channels, (frames, side, side), layout, device=device, dtype=dtype)
        for name, make in all_cases().items()
        for suffix, layout in LAYOUTS.items()
        if name.split()[0] in kinds and (not suffix or name.split()[0] in ("floor", "ours"))
    }
    memory: dict[str, float] = {}
    for name, run in steps.items():
        run()
        gc.collect()
        memory[name] = live_bytes_peak(run, device) / 2**20
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, run in steps.items():
            times[name].append(median_seconds(run, 1, warmup=0, device=device))
    return {name: {"seconds": median(times[name]), "MiB": memory[name]} for name in steps}


def fastest_peer(figures: dict[str, dict[str, float]], mode: str) -> float | None:
    """The seconds of the faster peer of a mode; of its dot product where no peer has the mode."""
    times = [f["seconds"] for name, f in figures.items() if name in (f"mmcv {mode}", f"pytorchvideo {mode}")]
    if not times and mode == "concatenation":
        return fastest_peer(figures, "dot_product")
    return min(times, default=None)


def compared(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Adds to ours: how many times faster than the faster peer, and time and memory over the floor's."""
    for name, figure in figures.items():
        kind, _, rest = name.partition(" ")
        mode, _, layout = rest.partition(", ")
        if kind == "ours":
            floor = figures["floor" + (f", {layout}" if layout else "")]
            figure["time over floor"] = figure["seconds"] / floor["seconds"]
            figure["memory over floor"] = figure["MiB"] / floor["MiB"]
            if (peer := fastest_peer(figures, mode)) is not None:
                figure["times faster than peer"] = peer / figure["seconds"]
    return figures


def print_table(title: str, figures: dict[str, dict[str, float]]) -> None:
    columns = ["seconds", "MiB", "times faster than peer", "time over floor", "memory over floor"]
    digits = {"seconds": 4, "MiB": 0}
    print(f"\n{title}\n\n| block | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, figure in figures.items():
        cells = [f"{figure[c]:.{digits.get(c, 2)}f}" if c in figure else "" for c in columns]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def picture(sizes: dict[str, dict[str, Any]], path: Path) -> None:
    """Time and memory against N, at res3."""
    chosen = sorted((size for size in sizes.values() if size["stage"] == "res3"), key=lambda size: size["N"])
    if not chosen:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    positions = [size["N"] for size in chosen]
    styles = {"floor": ":", "ours": "o-", "mmcv": "x--", "pytorchvideo": "+-."}
    figure, panels = pyplot.subplots(1, 2, figsize=(12, 5))
    for panel, column in zip(panels, ("seconds", "MiB"), strict=True):
        for name in chosen[-1]["blocks"]:
            kind, _, mode = name.partition(" ")
            if kind in styles and "channels last" not in name:
                values = [size["blocks"].get(name, {}).get(column, math.nan) for size in chosen]
                color = f"C{MODES.index(mode)}" if mode in MODES else "k"
                panel.plot(positions, values, styles[kind], color=color, label=name.replace("_", " "), linewidth=1.6)
        panel.set(xscale="log", yscale="log", xlabel="positions N (512 channels, keys N/4)")
        panel.set_title(column if column == "seconds" else "peak MiB beyond input and weights", loc="left")
        panel.xaxis.set_major_locator(FixedLocator(positions))
        panel.xaxis.set_minor_locator(NullLocator())
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle("One non-local block, forward and backward, one clip")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument(
        "--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="of blocks; the rest stay as they were"
    )
    parser.add_argument("--name", help="of the JSON and the PNG under benchmarks/results")
    arguments = parser.parse_args()
    name = arguments.name or ("nonlocal_block_cuda" if arguments.device.startswith("cuda") else "nonlocal_block")
    path = RESULTS / f"{name}.json"
    sizes: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["sizes"] if path.exists() else {}
    for stage in arguments.stages:
        for frames in arguments.frames:
            channels, side = STAGES[stage]
            title = f"{stage}: {channels} channels, {frames}x{side}x{side}"
            dtype = getattr(torch, arguments.dtype)
            figures = measure(arguments.kinds, stage, frames, arguments.rounds, arguments.device, dtype)
            figures = compared(sizes.get(title, {}).get("blocks", {}) | figures)
            sizes[title] = {"stage": stage, "N": frames * side * side, "blocks": figures}
            print_table(f"{title}, {arguments.dtype}", figures)
    results = {"machine": machine(arguments.device), "dtype": arguments.dtype, "rounds": arguments.rounds}
    write_json(name, results | {"sizes": sizes})
    picture(sizes, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
