"""The softmax pair on a GPU: the Triton form beside PyTorch's attention, ffpa-attn, and the form that stores the map.

Sizes of the paper's res3 and res4 blocks (256 and 512 channels). The Triton form is checked against float64 before
anything is timed. Peers are the backends of PyTorch's `scaled_dot_product_attention`, its FlexAttention in small
blocks, and `ffpa_attn` (PyPI, Apache-2.0), which is made for 320 to 1024 channels, where it is installed. Prints
Markdown tables: time forward, and forward and backward, the share of the rate of a large matrix product (operations
counted once, without what a backward pass computes again), peak memory, and from which map size on the Triton form
beats the stored map: the limits in `nlnet.ops.pairwise.algorithms` are set by it. Writes them as JSON. Exits with 1
without a GPU, or if an error is large.

    python benchmarks/gpu_attention.py [--batch 8] [--repeats 10] [--sweep] [--out FILE]
    TRITON_INTERPRET=1 python benchmarks/gpu_attention.py     # small maps on a CPU: to see that all of it runs

`--sweep` instead times tile sizes of both kernels and sizes of a strip, and what share of the time each kernel takes.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import RESULTS
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from nlnet.ops.triton import attention as triton_attention
from nlnet.ops.triton.attention import GRADIENT_TILES, SCORE_TILES, Tiles, attention

Form = Callable[[Tensor, Tensor, Tensor], Tensor]

TINY = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if TINY else "cuda"

# (channels, queries, keys): res4 at 8 and 32 frames, keys sub-sampled and not; res3 likewise sub-sampled
SIZES = [
    (512, 3136, 784),
    (512, 3136, 3136),
    (512, 12544, 3136),
    (512, 12544, 12544),
    (256, 3136, 784),
    (256, 12544, 3136),
]
CROSSOVER_QUERIES = [392, 784, 1568, 3136, 6272, 12544, 25088]
DTYPES = [torch.bfloat16, torch.float16]
if TINY:
    SIZES, CROSSOVER_QUERIES, DTYPES = [(16, 40, 24)], [16, 32], [torch.float32]
SWEEP = (512, 12544, 3136)
SWEEP_TILES = [
    *(Tiles(256, 128, 64, 8, 3), Tiles(256, 128, 64, 8, 4), Tiles(256, 128, 32, 8, 4), Tiles(128, 256, 64, 8, 3)),
    *(Tiles(128, 128, 64, 4, 3), Tiles(128, 128, 64, 8, 3), Tiles(128, 128, 64, 8, 4), Tiles(128, 128, 128, 8, 2)),
    *(Tiles(128, 128, 32, 4, 4), Tiles(64, 256, 64, 4, 3), Tiles(64, 128, 64, 4, 3), Tiles(128, 64, 64, 4, 3)),
]
SWEEP_STRIPS = [32, 64, 128, 256, 512, 1024]


def materialized(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The map itself."""
    return torch.bmm(torch.bmm(query, key.mT).softmax(-1), value)


def sdpa(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's attention by one backend; raises RuntimeError where that does not take the tensors."""
    with sdpa_kernel([backend]):
        return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0).squeeze(1)


def flex(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's FlexAttention, compiled, in blocks that fit beside 512 channels."""
    blocks = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_M1": 16, "BLOCK_N1": 16, "BLOCK_M2": 16, "BLOCK_N2": 16}
    form = flex_attention if TINY else _compiled_flex()
    options = {} if TINY else {"kernel_options": blocks}
    return form(query[:, None], key[:, None], value[:, None], scale=1.0, **options).squeeze(1)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False)


def ffpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The kernel of ffpa-attn; smaller channels and types that it does not take would go to PyTorch's own."""
    if query.shape[2] <= 256 or query.dtype.itemsize > 2:
        raise RuntimeError("No available kernel")
    from ffpa_attn import ffpa_attn_func

    return ffpa_attn_func(query[:, None], key[:, None], value[:, None], scale=1.0).squeeze(1)


PEERS: dict[str, Form] = {
    "sdpa flash": partial(sdpa, SDPBackend.FLASH_ATTENTION),
    "sdpa cudnn": partial(sdpa, SDPBackend.CUDNN_ATTENTION),
    "sdpa efficient": partial(sdpa, SDPBackend.EFFICIENT_ATTENTION),
    "sdpa math": partial(sdpa, SDPBackend.MATH),
}
OTHERS: dict[str, Form] = {"flex": flex, **({"ffpa-attn": ffpa} if find_spec("ffpa_attn") else {})}
FORMS: dict[str, Form] = {"triton": attention, **PEERS, **OTHERS, "materialized": materialized}


def tensors(batch: int, d: int, n: int, m: int, dtype: torch.dtype) -> list[Tensor]:
    """query, key, value, which need gradients, and the gradient of the output; scores of about unit variance."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    shapes = (batch, n, d), (batch, m, d), (batch, m, d), (batch, n, d)
    query, key, value, grad = (torch.randn(shape, device=DEVICE, generator=generator) for shape in shapes)
    inputs = [t.to(dtype).requires_grad_() for t in (query * d**-0.5, key, value)]
    return [*inputs, grad.to(dtype)]


def seconds(fn: Callable[[], object], repeats: int) -> float:
    """The median time by device events, each run with a cold cache."""
    if TINY:
        fn()
        began = time.perf_counter()
        fn()
        return time.perf_counter() - began
    flush = torch.empty(1 << 28, dtype=torch.int8, device="cuda")
    times = []
    for run in range(repeats + 3):
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        fn()
        end.record()
        torch.cuda.synchronize()
        times += [start.elapsed_time(end) / 1000] if run >= 3 else []
    return median(times)


def peak_mib(fn: Callable[[], object]) -> float:
    """The most memory that `fn()` takes beyond what is there before it."""
    if TINY:
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fn()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def both(form: Form, query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward: the output and the gradients of query, key and value."""
    out = form(query, key, value)
    return out.detach(), *torch.autograd.grad(out, (query, key, value), grad)


def forward(form: Form, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with torch.no_grad():
        return form(query, key, value)


def measure(form: Form, inputs: list[Tensor], repeats: int) -> dict[str, float] | str:
    """Times and peak memory of a form, or why there are none."""
    try:
        return {
            "forward_s": seconds(partial(forward, form, *inputs[:3]), repeats),
            "both_s": seconds(partial(both, form, *inputs), repeats),
            "peak_mib": peak_mib(partial(both, form, *inputs)),
        }
    except torch.cuda.OutOfMemoryError:
        return "out of memory"
    except Exception as error:  # a backend that refuses, a tile too large for the device
        if "No available kernel" in str(error) or "No viable backend" in str(error):
            return "does not take it"
        return f"fails: {type(error).__name__} {error}".splitlines()[0]
    finally:
        if not TINY:
            torch.cuda.empty_cache()


def errors(form: Form, inputs: list[Tensor], wanted: tuple[Tensor, ...]) -> list[float]:
    """Norm of the error over the norm, of the output and each gradient."""
    got = both(form, *inputs)
    return [float((g.double() - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True)]


def check(dtype: torch.dtype) -> bool:
    """Whether the Triton form is off from float64 by at most 3 times what the stored map is, and 4 roundings."""
    right = True
    for d, n, m in [*SIZES, (24, 33, 17) if TINY else (200, 1000, 333)]:
        inputs = tensors(1, d, n, m, dtype)
        wanted = both(materialized, *(t.detach().double().requires_grad_() for t in inputs[:3]), inputs[3].double())
        ours, plain = errors(attention, inputs, wanted), errors(materialized, inputs, wanted)
        fits = all(a <= 3 * b + 4 * torch.finfo(dtype).eps for a, b in zip(ours, plain, strict=True))
        listed = ", ".join(f"{a:.1e} ({b:.1e})" for a, b in zip(ours, plain, strict=True))
        print(f"{'ok' if fits else 'WRONG'} {dtype} D {d}, {n} x {m}: output, dq, dk, dv {listed}", flush=True)
        right &= fits
    return right


def matmul_rate(dtype: torch.dtype, repeats: int) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = 128 if TINY else 8192
    a, b = (torch.randn(side, side, device=DEVICE).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds(partial(torch.mm, a, b), repeats)


def case(size: tuple[int, int, int], dtype: torch.dtype, batch: int, repeats: int, rate: float) -> dict[str, Any]:
    """Every form at one size; prints its rows."""
    d, n, m = size
    inputs = tensors(batch, d, n, m, dtype)
    operations = 4 * batch * n * m * d  # two products forward, four backward
    rows: dict[str, Any] = {}
    for name, form in FORMS.items():
        figures = rows[name] = measure(form, inputs, repeats)
        cells = [figures, "", "", "", ""]
        if isinstance(figures, dict):
            figures["forward_share"] = operations / figures["forward_s"] / rate
            figures["both_share"] = 3 * operations / figures["both_s"] / rate
            cells = [f"{figures[k] * 1e3:.2f}" for k in ("forward_s", "both_s")]
            cells += [f"{figures[k]:.0%}" for k in ("forward_share", "both_share")] + [f"{figures['peak_mib']:.0f}"]
        print(f"| {d} | {n} x {m} | {str(dtype)[6:]} | {name} | {' | '.join(map(str, cells))} |", flush=True)
    return {"channels": d, "queries": n, "keys": m, "dtype": str(dtype)[6:], "forms": rows} | verdict(rows)


def verdict(rows: dict[str, Any]) -> dict[str, Any]:
    """How many times faster the Triton form is than the fastest of PyTorch's backends, and than each other peer."""
    taken = {name: rows[name]["both_s"] for name in PEERS if isinstance(rows[name], dict)}
    if not taken or isinstance(rows["triton"], str):
        return {}
    best, ours = min(taken, key=taken.__getitem__), rows["triton"]["both_s"]
    others = {f"times_{name}": rows[name]["both_s"] / ours for name in OTHERS if isinstance(rows[name], dict)}
    return {"best_sdpa": best, "times_best_sdpa": taken[best] / ours} | others


def crossover(d: int, batch: int, repeats: int) -> dict[str, Any]:
    """Forward and backward of both forms by map size, and the size in numbers from which the Triton form is ahead."""
    rows, smallest = [], None
    for n in CROSSOVER_QUERIES:
        inputs = tensors(batch, d, n, n // 4, DTYPES[0])
        ours, plain = (measure(form, inputs, repeats) for form in (attention, materialized))
        if isinstance(ours, str) or isinstance(plain, str):
            continue
        numbers = batch * n * (n // 4)
        smallest = None if ours["both_s"] > plain["both_s"] else smallest or numbers
        times = {"triton_s": ours["both_s"], "materialized_s": plain["both_s"]}
        rows.append({"map_numbers": numbers, "map_mib": numbers * 2 / 2**20} | times)
        cells = f"{n} x {n // 4} | {numbers * 2 / 2**20:.0f}"
        print(f"| {d} | {cells} | {times['triton_s'] * 1e3:.2f} | {times['materialized_s'] * 1e3:.2f} |", flush=True)
    return {"channels": d, "rows": rows, "triton_from_map_numbers": smallest}


def sweep(batch: int, repeats: int) -> dict[str, Any]:
    """Times of tile and strip sizes at `SWEEP` in bfloat16, fastest first, and each kernel's share at the default."""
    inputs = tensors(batch, *SWEEP, torch.bfloat16)
    found: dict[str, list[tuple[float, str]]] = {"forward": [], "backward": [], "strips": []}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        both(attention, *inputs)
    print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=12, max_name_column_width=60))
    for table, name, key in ((SCORE_TILES, "forward", "forward_s"), (GRADIENT_TILES, "backward", "both_s")):
        default = table[2]
        for tiles in SWEEP_TILES:
            table[2] = (tiles,)
            figures = measure(attention, inputs, repeats)
            found[name].append((figures[key] if isinstance(figures, dict) else float("inf"), str(tuple(tiles))))
        table[2] = default
    default_strip = triton_attention.STRIP_BYTES
    for mib in SWEEP_STRIPS:
        triton_attention.STRIP_BYTES = mib << 20
        figures = measure(attention, inputs, repeats)
        found["strips"].append((figures["both_s"] if isinstance(figures, dict) else float("inf"), f"{mib} MiB"))
    triton_attention.STRIP_BYTES = default_strip
    for name, times in found.items():
        print(f"\n{name}: rows, keys, depth, warps, stages" if name != "strips" else "\nstrips")
        print("\n".join(f"  {time * 1e3:8.2f} ms  {what}" for time, what in sorted(times)), flush=True)
    return {name: sorted(times) for name, times in found.items()}


def machine() -> dict[str, str]:
    """What the figures depend on."""
    import triton

    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "triton": triton.__version__}
    return {"gpu": "none" if TINY else torch.cuda.get_device_name()} | versions


def compare(batch: int, repeats: int, out: Path) -> None:
    """All tables, and their JSON."""
    rates = {dtype: matmul_rate(dtype, repeats) for dtype in DTYPES}
    report: dict[str, Any] = {"machine": machine(), "batch": batch, "repeats": repeats}
    report["matmul_tflops"] = {str(dtype)[6:]: rate / 1e12 for dtype, rate in rates.items()}
    print(f"{report['machine']}, matrix product {report['matmul_tflops']} TFLOP/s, batch {batch}\n")
    print("| channels | map | dtype | form | forward ms | both ms | forward share | both share | peak MiB |")
    print(f"|{' --- |' * 9}")
    report["cases"] = [case(s, dtype, batch, repeats, rates[dtype]) for s, dtype in product(SIZES, DTYPES)]
    print("\n| channels | map | map MiB | triton ms | materialized ms |\n| --- | --- | --- | --- | --- |")
    report["crossover"] = [crossover(d, batch, repeats) for d in ((16,) if TINY else (512, 256))]
    print()
    for c in report["cases"]:
        if "best_sdpa" in c:
            size = f"D {c['channels']}, {c['queries']} x {c['keys']}, {c['dtype']}"
            print(f"{size}: {c['times_best_sdpa']:.2f}x {c['best_sdpa']}, forward and backward")
    for c in report["crossover"]:
        print(f"D {c['channels']}: triton is chosen from {c['triton_from_map_numbers']} numbers of the map on")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_attention.json")
    arguments = parser.parse_args()
    if not TINY and not torch.cuda.is_available():
        print("gpu_attention.py needs a CUDA GPU, and PyTorch sees none here", file=sys.stderr)
        return 1
    warnings.simplefilter("ignore")  # each backend of PyTorch's attention warns of why it does not take a tensor
    torch.backends.cuda.matmul.allow_tf32 = False
    if not all(list(map(check, DTYPES))):
        return 1
    if arguments.sweep:
        sweep(arguments.batch, arguments.repeats)
    else:
        compare(arguments.batch, arguments.repeats, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
