"""Which algorithm of a pairwise function runs: every one is exact, they differ in time and memory.

| algorithm | functions | what it does | time | memory beyond input and output |
| --- | --- | --- | --- | --- |
| materialized | all | stores the (N, M) map | N M (D + E) | N M |
| associative | dot_product | theta (phi^T g) | (N + M) D E | D E |
| sorted | concatenation | prefix sums over sorted b | (N + M) (log M + E) | M E |
| tiled | gaussian, embedded_gaussian | the map of some queries at a time | N M (D + E) | at most a constant |
| fused | gaussian, embedded_gaussian | PyTorch's fused attention | N M (D + E) | N |
| triton | gaussian, embedded_gaussian | this package's GPU kernels | N M (D + E) | N, and at most a constant |
"""

import torch
from torch import Tensor

from nlnet.ops.pairwise.base import PAIRWISE

MAP_LIMIT = 2**24
"""No larger map, over all clips, is ever stored unless by `algorithm="materialized"`: 64 MiB in float32."""

SMALL_MAP = 2**18
"""Up to this many numbers the whole map is stored: the other algorithms' own work costs more."""

FLASH_CHANNELS = 256
"""The most channels that PyTorch's flash attention takes on a GPU; above it the Triton kernels are taken."""


def choose_algorithm(
    pairwise: str,
    n: int,
    m: int,
    d: int,
    e: int,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    device_type: str = "cpu",
    triton: bool = False,
) -> str:
    """What `algorithm="auto"` takes: n queries, m keys, d channels compared, e summed, in each clip of a batch.

    `triton` says whether the Triton kernels can run here.

    >>> from nlnet import ops
    >>> ops.choose_algorithm("dot_product", 12544, 3136, 256, 256)
    'associative'

    Raises ValueError if `pairwise` is not the name of a function.
    """
    if pairwise == "dot_product":
        return "associative" if (n + m) * d * e <= n * m * (d + e) else "materialized"
    if pairwise not in PAIRWISE:
        known = ", ".join(PAIRWISE)
        raise ValueError(f"choose_algorithm: unknown pairwise function {pairwise!r}, expected one of {known}")
    if PAIRWISE[pairwise].algorithms == ("materialized",):
        return "materialized"
    numbers = batch * n * m
    if pairwise == "concatenation":
        return "materialized" if numbers <= SMALL_MAP else "sorted"
    if device_type == "cpu":
        return "materialized" if numbers <= SMALL_MAP else "tiled"
    # A GPU multiplies half precision in its own type: in float16 a stored map could overflow.
    if numbers <= MAP_LIMIT and dtype != torch.float16:
        return "materialized"
    return "triton" if triton and max(d, e) > FLASH_CHANNELS else "fused"


def is_recorded() -> bool:
    """Whether this call is written down as a program, which will run on other sizes (torch.export, traces, ONNX).

    >>> is_recorded()
    False
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def algorithm_for(pairwise: str, algorithm: str, query: Tensor, m: int, d: int, e: int, *, triton: bool = False) -> str:
    """The algorithm that a caller named, or for "auto" the one that sizes, type and device ask for.

    Raises ValueError if the function has no such algorithm.
    """
    if algorithm != "auto":
        known = PAIRWISE[pairwise].algorithms
        if algorithm not in known:
            raise ValueError(f"{pairwise}: unknown algorithm {algorithm!r}, expected one of auto, {', '.join(known)}")
        return algorithm
    if is_recorded():
        # A choice by size would hold the exported program to the sizes of its example, and plain operations alone run
        # where this package is not.
        return "associative" if pairwise == "dot_product" else "materialized"
    (b, n), kind = query.shape[:2], query.device.type
    return choose_algorithm(pairwise, n, m, d, e, batch=b, dtype=query.dtype, device_type=kind, triton=triton)
