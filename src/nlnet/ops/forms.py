"""Which form of a pairwise function runs: every form is exact, they differ in time and memory.

| form | functions | what it does | time | memory beyond input and output |
| --- | --- | --- | --- | --- |
| materialised | all | stores the (N, M) map | N M (D + E) | N M |
| associative | dot_product | theta (phi^T g) | (N + M) D E | D E |
| sorted | concatenation | prefix sums over sorted b | (N + M) (log M + E) | M E |
| blocked | gaussian, embedded_gaussian | the map of some queries at a time | N M (D + E) | at most a constant |
| fused | gaussian, embedded_gaussian | PyTorch's fused attention | N M (D + E) | N |
| triton | gaussian, embedded_gaussian | this package's GPU kernels | N M (D + E) | N, and at most a constant |
"""

import torch

FORMS = {
    "gaussian": ("materialised", "blocked", "fused", "triton"),
    "embedded_gaussian": ("materialised", "blocked", "fused", "triton"),
    "dot_product": ("materialised", "associative"),
    "concatenation": ("materialised", "sorted"),
}
"""The forms of each function that `form=` takes, besides "auto"."""

MAP_LIMIT = 2**24
"""No larger map, over all clips, is ever stored unless by `form="materialised"`: 64 MiB in float32."""

SMALL_MAP = 2**18
"""Up to this many numbers the whole map is stored: the other forms' own work costs more."""

FLASH_CHANNELS = 256
"""The most channels that PyTorch's flash attention takes on a GPU; above it the Triton form is taken."""


def choose_form(
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
    """The form that `form="auto"` takes: n queries, m keys, d channels compared, e summed, in each clip of a batch.

    `triton` says whether the Triton kernel can run here.
    Raises ValueError if `pairwise` is not the name of a function.
    """
    if pairwise == "dot_product":
        return "associative" if (n + m) * d * e <= n * m * (d + e) else "materialised"
    if pairwise not in FORMS:
        raise ValueError(f"choose_form: unknown pairwise function {pairwise!r}, expected one of {', '.join(FORMS)}")
    numbers = batch * n * m
    if pairwise == "concatenation":
        return "materialised" if numbers <= SMALL_MAP else "sorted"
    if device_type == "cpu":
        return "materialised" if numbers <= SMALL_MAP else "blocked"
    # A GPU multiplies half precision in its own type: in float16 a stored map could overflow.
    if numbers <= MAP_LIMIT and dtype != torch.float16:
        return "materialised"
    return "triton" if triton and max(d, e) > FLASH_CHANNELS else "fused"


def forced_form(pairwise: str, form: str) -> str:
    """`form`, which a caller named.

    Raises ValueError if the function has no such form.
    """
    if form not in FORMS[pairwise]:
        raise ValueError(f"{pairwise}: unknown form {form!r}, expected one of auto, {', '.join(FORMS[pairwise])}")
    return form
