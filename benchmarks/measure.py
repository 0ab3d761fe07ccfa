"""What the benchmarks share: the machine in words, medians, peak memory, a JSON."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).resolve().parent / "results"))


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, threads and versions, and the GPU where `device` is one: what a figure depends on."""
    info: dict[str, Any] = {
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.startswith("cuda"):
        info |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        info |= {"tf32": torch.backends.cuda.matmul.allow_tf32}
    return info


def cpu_model() -> str:
    """The processor's name as Linux gives it, or as the platform does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def median_seconds(fn: Callable[[], object], repeats: int = 5, *, warmup: int = 1, device: str = "cpu") -> float:
    """The median time of `fn()` over `repeats` runs after `warmup` ones; by device events on a GPU."""
    for _ in range(warmup):
        fn()
    return median(_seconds(fn, device) for _ in range(repeats))


def _seconds(fn: Callable[[], object], device: str) -> float:
    if not device.startswith("cuda"):
        start = time.perf_counter()
        fn()
        return time.perf_counter() - start
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    first.record()
    fn()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000


def live_bytes_peak(fn: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of tensors alive at once during `fn()`, beyond those alive before it.

    On a CPU from the profiler's memory events: every allocation and release of a tensor, in the order of time. On a
    GPU from the allocator's counter.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        fn()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        fn()
    results = profile.profiler.kineto_results
    changes = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for _, change in sorted(changes, key=lambda event: event[0]):
        live += change
        peak = max(peak, live)
    return peak


def write_json(name: str, results: Mapping[str, Any]) -> Path:
    """`results` as benchmarks/results/NAME.json."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return path
