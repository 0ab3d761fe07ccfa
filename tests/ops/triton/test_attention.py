"""The Triton form of the softmax pair: its kernels in a process of their own, and what needs no Triton."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nlnet.ops.triton import attention as triton_attention
from nlnet.ops.triton.attention import GRADIENT_TILES, SCORE_TILES, attention, supports

CASES = Path(__file__).with_name("triton_cases.py")
COMPILED = pytest.param("0", id="compiled", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

FLOAT32 = {"tops", "sums", "lse", "delta", "dots"}
HALF = {"query", "key", "value", "grad", "weights", "slopes", "a", "b"}


@pytest.mark.parametrize("interpret", [pytest.param("1", id="interpreted"), COMPILED])
@pytest.mark.parametrize("which", ["not full", pytest.param("full", marks=pytest.mark.full)])
@NEEDS_TRITON
def test_kernels(which: str, interpret: str) -> None:
    """Triton decides at its import whether it interprets, so each way has its own process."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", which, str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=CASES.parents[2])
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.full
@NEEDS_TRITON
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning")
@pytest.mark.parametrize(("capability", "shared"), [(80, 163 << 10), (90, 227 << 10)], ids=["A100", "H100"])
def test_kernels_compile_and_fit(capability: int, shared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to machine code, which needs no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nlnet.ops.triton import kernels as triton_kernels

    tiles = SCORE_TILES[2][0]
    values = {"ROWS": tiles.rows, "KEYS": tiles.keys, "DEPTH": tiles.depth, "UPCAST": False}
    for name, changed in [
        ("tile_softmax", {}),
        ("score_gradients", {}),
        ("mix_tiles", {"ROWS": 16}),
        ("row_dots", {"ROWS": 64}),
    ]:
        kernel = getattr(triton_kernels, name)
        kinds = {a: "*fp32" if a in FLOAT32 else "*bf16" if a in HALF else "i32" for a in kernel.arg_names}
        constants = {a: (values | changed)[a] for a in kernel.arg_names if a in values}
        aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names) if a not in values}
        places = {(kernel.arg_names.index(a),): value for a, value in constants.items()}
        source = ASTSource(kernel, kinds | dict.fromkeys(constants, "constexpr"), places, aligned)
        options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert compiled.metadata.shared <= shared
        if "KEYS" in constants and "DEPTH" in constants:
            assert ("wgmma" if capability == 90 else "mma.sync") in compiled.asm["ptx"]


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(
    ("b", "n", "m"),
    [
        (1, 1, 1),
        (8, 3136, 784),
        (8, 12544, 3136),
        (3, 50176, 50176),
        (5, 1000, 200_000),
        (70_000, 8, 8),
        (2, 5000, 10**9),
    ],
)
def test_strips_cover_the_map_once_within_their_limit(b: int, n: int, m: int, itemsize: int) -> None:
    dtype = {2: torch.bfloat16, 4: torch.float32}[itemsize]
    query, key = (torch.empty(b, length, 8, dtype=dtype, device="meta") for length in (n, m))
    clips = list(triton_attention._clips(query, key, buffers=2))
    assert [i for group in clips for i in range(group.start, group.stop)] == list(range(b))
    for group in {group.stop - group.start: group for group in clips}.values():
        strips = list(triton_attention._rows(query[group], key, buffers=2))
        assert [i for rows in strips for i in range(rows.start, rows.stop)] == list(range(n))
        largest = (group.stop - group.start) * max(rows.stop - rows.start for rows in strips)
        least = largest <= triton_attention.ROW_STEP
        assert least or 2 * largest * triton_attention._width(key) * itemsize <= triton_attention.STRIP_BYTES


def test_both_kernels_sum_a_score_in_the_same_order() -> None:
    for itemsize, table in SCORE_TILES.items():
        depths = [tiles.depth for tiles in table]
        assert [tiles.depth for tiles in GRADIENT_TILES[itemsize]] == depths


def test_the_processor_is_refused_in_words() -> None:
    query, key, value = (torch.randn(2, length, 4) for length in (6, 3, 3))
    assert not supports(query, key, value)
    with pytest.raises(ValueError, match=r"nothing empty and a CUDA GPU, got torch.float32 on cpu"):
        attention(query, key, value)


@pytest.mark.parametrize(
    "sizes", [((2, 6, 4), (2, 3, 5), (2, 3, 4)), ((6, 4), (3, 4), (3, 4)), ((2, 6, 4), (2, 3, 4), (2, 6, 4))]
)
def test_odd_shapes_are_refused_in_words(sizes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected query \(B, N, D\), key \(B, M, D\), value \(B, M, E\), got"):
        attention(*(torch.randn(size) for size in sizes))


@pytest.mark.parametrize("change", ["dtype", "double", "empty"])
def test_supports_says_no_to(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_attention, "INTERPRETED", True)
    query, key, value = torch.randn(2, 6, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert supports(query, key, value)
    wrong = {
        "dtype": (query, key.half(), value),
        "double": (query.double(), key.double(), value.double()),
        "empty": (query[:, :0], key, value),
    }
    assert not supports(*wrong[change])
