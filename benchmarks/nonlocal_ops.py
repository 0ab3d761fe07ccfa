"""What the pairwise functions cost by themselves, forward and backward: ours, the stored map, mmcv, PyTorch's own.

Sizes are those of the paper's networks, which reduce time 8-fold: a clip of 8, 32 or 128 frames is 1, 4 or 16 maps of
28x28 in res3 (D = E = 256) or of 14x14 in res4 (512), and longer clips in res3 to see how the cost grows with N. Keys
are sub-sampled, M = N/4. The Gaussian compares all channels, so its D is 2 E. "mmcv" is its form of the function.

The forms of a function run in turn, round after round, so that each sees the same machine; time is the median of the
rounds, each of as many runs as take 30 ms, and a run of over 3 s is taken once. Memory is the peak of live tensor bytes
beyond the inputs, gradients included (`measure.live_bytes_peak`), which other cases of the process do not change. Share
is that of the rate of a large matrix product, operations counted once, without what a backward pass computes again. On
a GPU the forms and the backends of PyTorch's attention stand beside each other, in bfloat16. Maps of over 2^28 numbers
are not stored.

Results are merged into the JSON, so that a long measurement can be made in parts; the tables show all of it.

    python benchmarks/nonlocal_ops.py [--device cuda] [--pairwise gaussian ...] [--measure time memory] [--batch 1]
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import linear_regression, median
from typing import Any, NamedTuple

import torch
from measure import RESULTS, live_bytes_peak, machine, median_seconds, write_json
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from nlnet.ops import PAIRWISE

SOFTMAX = ("gaussian", "embedded_gaussian")
MAP_NUMBERS = 2**28
SLOW_S, SHORTEST_S = 3.0, 0.03
BACKENDS = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
}
Form = Callable[..., Tensor]
Row = dict[str, Any]


class Size(NamedTuple):
    """N queries, M = N/4 keys, E channels summed, of which a stage's map has 2 E."""

    stage: str
    frames: int
    e: int
    n: int

    @property
    def m(self) -> int:
        return self.n // 4


SIZES = [Size("res3", frames, 256, frames // 8 * 28 * 28) for frames in (8, 32, 64, 128, 256, 512)]
SIZES += [Size("res4", frames, 512, frames // 8 * 14 * 14) for frames in (8, 32, 128)]


class Case(NamedTuple):
    """One form of one function at one size."""

    pairwise: str
    form: str
    size: Size

    @property
    def key(self) -> str:
        return f"{self.pairwise}, {self.size.stage}, {self.size.frames} frames, {self.form}"


def sdpa(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """PyTorch's attention by one backend; raises RuntimeError where that does not take the tensors."""
    with sdpa_kernel([backend]):
        return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=scale).squeeze(1)


def mmcv_form(map_of: Form, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """mmcv's function, whose embedded Gaussian scales by 1/sqrt(D)."""
    return torch.matmul(map_of(query, key.mT), value)


def form_of(case: Case) -> Form:
    """What computes a case from its tensors."""
    pairwise, d = case.pairwise, case.size.e
    if case.form == "mmcv":
        from mmcv.cnn.bricks import NonLocal3d

        return partial(mmcv_form, getattr(NonLocal3d(2, mode=pairwise), pairwise))
    scale = {"scale": d**-0.5} if pairwise == "embedded_gaussian" else {}
    if case.form in BACKENDS:
        return partial(sdpa, BACKENDS[case.form], **scale)
    return partial(PAIRWISE[pairwise], algorithm="auto" if case.form == "ours" else case.form, **scale)


def forms(pairwise: str, device: str) -> list[str]:
    """The names of the forms to compare; mmcv only where it is installed and has a form that trains."""
    names = ["ours", "materialized"]
    if pairwise != "concatenation":
        try:
            import mmcv.cnn.bricks  # noqa: F401
        except ImportError as error:
            print(f"mmcv is left out: {error}")
        else:
            names.append("mmcv")
    if device.startswith("cuda") and pairwise in SOFTMAX:
        names += [form for form in PAIRWISE[pairwise].algorithms if form in ("fused", "triton")] + list(BACKENDS)
    return names


def tensors(case: Case, batch: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """What the function compares and sums, with gradients, and the gradient of its result; scores of unit variance."""
    (_, _, e, n), m = case.size, case.size.m
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator)
    inputs = [normal(batch, n), normal(batch, m)]
    if case.pairwise != "concatenation":
        d = 2 * e if case.pairwise == "gaussian" else e
        inputs = [normal(batch, n, d), normal(batch, m, d)]
    if case.pairwise == "gaussian":
        inputs[0] *= (2 * e) ** -0.5
    inputs = [t.to(device, dtype).requires_grad_() for t in (*inputs, normal(batch, m, e))]
    return [*inputs, normal(batch, n, e).to(device, dtype)]


def forward(form: Form, *inputs: Tensor) -> None:
    with torch.no_grad():
        form(*inputs[:3])


def both(form: Form, *inputs: Tensor) -> None:
    torch.autograd.grad(form(*inputs[:3]), inputs[:3], inputs[3])


def refusal(case: Case, batch: int) -> str:
    """Why a case is not run, or nothing."""
    stores = case.form in ("materialized", "mmcv")
    numbers = batch * case.size.n * case.size.m
    return f"map of {numbers * 4 / 2**30:.1f} GiB not stored" if stores and numbers > MAP_NUMBERS else ""


def times(runs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float | str]:
    """The median seconds of each run, taken in turn, or why there is no time."""
    found: dict[str, float | str] = {}
    taken: dict[str, list[float]] = {}
    repeats: dict[str, int] = {}
    for name, run in runs.items():
        try:
            first = median_seconds(run, 1, warmup=0, device=device)
            if first > SLOW_S:  # or only the first time
                first = min(first, median_seconds(run, 1, warmup=0, device=device))
            found[name] = first
        except RuntimeError as error:  # a backend that refuses, no kernel on this device, out of memory
            found[name] = "out of memory" if isinstance(error, torch.OutOfMemoryError) else "does not take it"
        else:
            if first < SLOW_S:
                taken[name] = []
                repeats[name] = max(1, int(SHORTEST_S / first))
    for number in range(rounds):
        turn = number % max(len(taken), 1)  # who comes first finds the caches as the last one has left them
        for name in (*list(taken)[turn:], *list(taken)[:turn]):
            values = taken[name]
            run, count = runs[name], repeats[name]
            seconds = median_seconds(lambda run=run, n=count: [run() for _ in range(n)], 1, warmup=0, device=device)
            values.append(seconds / count)
    return found | {name: median(values) for name, values in taken.items()}


def operations(case: Case, batch: int) -> float:
    """Floating-point operations forward of the products with the map."""
    d = case.size.e * (2 if case.pairwise == "gaussian" else 1)
    return 2.0 * batch * case.size.n * case.size.m * (d + case.size.e)


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = 8192 if device.startswith("cuda") else 3072
    a, b = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(partial(torch.mm, a, b), device=device)


def time_cases(cases: list[Case], rate: float, batch: int, rounds: int, *to: Any) -> dict[str, Row]:
    """Seconds of the forms of one function at one size, and the softmax pair's share of `rate`."""
    inputs = tensors(cases[0], batch, *to)
    rows: dict[str, Row] = {case.key: {} for case in cases}
    for column, passes, function in (("forward_s", 1, forward), ("both_s", 3, both)):
        runs = {case.key: partial(function, form_of(case), *inputs) for case in cases}
        for case, value in zip(cases, times(runs, rounds, to[0]).values(), strict=True):
            if isinstance(value, str):
                rows[case.key]["skipped"] = value
            else:
                rows[case.key][column] = value
                if case.pairwise in SOFTMAX:
                    rows[case.key][f"{column[:-2]}_share"] = passes * operations(case, batch) / value / rate
    return rows


def memory_cases(cases: list[Case], batch: int, *to: Any) -> dict[str, Row]:
    """MiB at the peak, forward and backward, of what a case itself makes, its gradients included."""
    rows: dict[str, Row] = {}
    for case in cases:
        run = partial(both, form_of(case), *tensors(case, batch, *to))
        try:
            if case.size.n * case.size.m < MAP_NUMBERS // 16:
                run()  # what a first run sets up is not the case's, and small beside a large one
            rows[case.key] = {"peak_mib": live_bytes_peak(run, to[0]) / 2**20}
        except RuntimeError:
            continue  # the table says why beside the times
    return rows


def all_cases(
    pairwise: str, device: str, batch: int, frames: Sequence[int] | None
) -> Iterator[tuple[list[Case], dict[str, Row]]]:
    """By size: the cases to run, and the rows that say why others are not run."""
    names = forms(pairwise, device)
    for size in (size for size in SIZES if not frames or size.frames in frames):
        cases = [Case(pairwise, form, size) for form in names]
        refused = {case.key: {"skipped": why} for case in cases if (why := refusal(case, batch))}
        yield [case for case in cases if case.key not in refused], refused


def measured(arguments: argparse.Namespace, dtype: torch.dtype) -> Iterator[dict[str, Row]]:
    batch, device = arguments.batch, arguments.device
    rate = matmul_rate(device, dtype)
    for pairwise in arguments.pairwise:
        for cases, refused in all_cases(pairwise, device, batch, arguments.frames):
            yield refused
            if "time" in arguments.measure:
                yield time_cases(cases, rate, batch, arguments.rounds, device, dtype)
            if "memory" in arguments.measure:
                yield memory_cases(cases, batch, device, dtype)


def print_table(rows: dict[str, Row]) -> None:
    """All rows, with how many times faster ours is, forward and backward."""
    print("\n| function | size | N x M | form | forward s | both s | share | MiB | ours is faster |")
    print(f"|{' --- |' * 9}")
    for size in SIZES:
        for pairwise in PAIRWISE:
            start = Case(pairwise, "", size).key
            found = {key.removeprefix(start): row for key, row in rows.items() if key.startswith(start)}
            ours = found.get("ours", {}).get("both_s", math.nan)
            for form, row in sorted(found.items(), key=lambda item: item[0] != "ours"):
                seconds = [f"{row[c]:.4f}" if c in row else row.get("skipped", "") for c in ("forward_s", "both_s")]
                share = f"{row['both_share']:.0%}" if "both_share" in row else ""
                mib = f"{row['peak_mib']:.0f}" if "peak_mib" in row else ""
                ratio = f"{row['both_s'] / ours:.2f}x" if form != "ours" and "both_s" in row else ""
                shape = f"{size.stage}, {size.frames} frames | {size.n:,} x {size.m:,}"
                print(f"| {pairwise} | {shape} | {form} | {' | '.join((*seconds, share, mib, ratio))} |")


def growth(rows: dict[str, Row], pairwise: str, form: str, column: str) -> tuple[list[int], list[float]]:
    """N and the values in res3, from 32 frames on."""
    keyed = [(s.n, rows.get(Case(pairwise, form, s).key, {})) for s in SIZES if s.stage == "res3" and s.frames >= 32]
    found = [(n, row[column]) for n, row in keyed if column in row]
    return [n for n, _ in found], [value for _, value in found]


def exponents(rows: dict[str, Row]) -> dict[str, dict[str, float]]:
    """The p of cost ~ N^p by least squares of the logarithms, for ours; and prints them."""
    found: dict[str, dict[str, float]] = {}
    for pairwise in PAIRWISE:
        for column in ("both_s", "peak_mib"):
            positions, values = growth(rows, pairwise, "ours", column)
            if len(positions) > 2:
                slope = linear_regression([math.log(n) for n in positions], [math.log(v) for v in values]).slope
                found.setdefault(pairwise, {})[column] = slope
                what = "time" if column == "both_s" else "memory"
                print(f"{pairwise}: {what} ~ N^{slope:.2f}, N from {positions[0]:,} to {positions[-1]:,}")
    return found


def picture(rows: dict[str, Row], path: Path, title: str) -> None:
    """Time and memory against N in res3, ours and the stored map."""
    columns = [c for c in ("both_s", "peak_mib") if any(growth(rows, pairwise, "ours", c)[0] for pairwise in PAIRWISE)]
    if len(columns) < 2:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, panels = pyplot.subplots(1, 2, figsize=(12, 5))
    for panel, column in zip(panels, columns, strict=True):
        for number, pairwise in enumerate(PAIRWISE):
            for form, style in (("ours", "o-"), ("materialized", "x:")):
                positions, values = growth(rows, pairwise, form, column)
                label = f"{pairwise.replace('_', ' ')}, {'ours' if form == 'ours' else 'stored map'}"
                panel.plot(positions, values, style, color=f"C{number}", label=label, linewidth=1.8)
        panel.set(xscale="log", yscale="log", xlabel="positions N (keys M = N/4)")
        panel.xaxis.set_major_locator(FixedLocator([s.n for s in SIZES if s.stage == "res3"]))
        panel.xaxis.set_minor_locator(NullLocator())
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        panel.grid(alpha=0.3)
    panels[0].set_title("seconds", loc="left")
    panels[1].set_title("peak MiB beyond the inputs", loc="left")
    panels[0].legend(fontsize=8, loc="upper left")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def merge(name: str, about: dict[str, Any], some: dict[str, Row]) -> dict[str, Row]:
    """All rows of the JSON, with these in it."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    for key, row in some.items():
        rows[key] = rows.get(key, {}) | row
    write_json(name, about | {"rows": rows})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32; bfloat16 on a GPU")
    parser.add_argument("--pairwise", nargs="*", default=list(PAIRWISE), choices=list(PAIRWISE))
    parser.add_argument("--measure", nargs="+", default=["time", "memory"], choices=["time", "memory"])
    parser.add_argument("--frames", type=int, nargs="+", help="of the clips to measure; all sizes without")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", help="of the JSON and the PNG under benchmarks/results")
    arguments = parser.parse_args()
    cuda = arguments.device.startswith("cuda")
    name = arguments.name or ("nonlocal_ops_cuda" if cuda else "nonlocal_ops")
    dtype_name = arguments.dtype or ("bfloat16" if cuda else "float32")
    about = {"machine": machine(arguments.device), "dtype": dtype_name, "batch": arguments.batch}
    about["rounds"] = arguments.rounds
    for some in measured(arguments, getattr(torch, dtype_name)):
        merge(name, about, some)
    rows = merge(name, about, {})
    print_table(rows)
    print()
    write_json(name, about | {"exponents": exponents(rows), "rows": rows})
    shape = "D = E = 256; D = 512 for the Gaussian"
    picture(rows, RESULTS / f"{name}.png", f"The pairwise functions alone, forward and backward, {dtype_name}, {shape}")


if __name__ == "__main__":
    main()
