"""The block compiled, exported and in ONNX: the numbers of the block itself."""

import io
from pathlib import Path

import pytest
import torch

from helpers.nonlocal_oracle import awake
from nlnet import NonLocalBlock, ops

# the compiler and the exporter warn about their own parts
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SLOW = pytest.mark.full
MODES = [pytest.param(name, marks=() if name == "concatenation" else SLOW) for name in ops.PAIRWISE]


def awake_block(pairwise: str) -> tuple[NonLocalBlock, torch.Tensor]:
    torch.manual_seed(0)
    return awake(NonLocalBlock(8, 3, pairwise)).eval(), torch.randn(2, 8, 4, 6, 6)


def trained(block: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    z = block(x)
    return [z, *torch.autograd.grad(z.square().sum(), [x, *block.parameters()])]


@pytest.mark.parametrize(
    ("pairwise", "backend"),
    [(name, "aot_eager") for name in ops.PAIRWISE]
    + [pytest.param(name, "inductor", marks=SLOW) for name in ops.PAIRWISE],
)
def test_compiled_whole(pairwise: str, backend: str) -> None:
    block, x = awake_block(pairwise)
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    torch.testing.assert_close(trained(compiled, x), trained(block, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairwise", MODES)
def test_exported_and_read_back(pairwise: str) -> None:
    block, x = awake_block(pairwise)
    stored = io.BytesIO()
    torch.export.save(torch.export.export(block, (x,)), stored)
    stored.seek(0)
    torch.testing.assert_close(torch.export.load(stored).module()(x), block(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairwise", MODES)
def test_onnx(pairwise: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `export`")
    block, x = awake_block(pairwise)
    path = tmp_path / "block.onnx"
    torch.onnx.export(block, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (z,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(z), block(x), rtol=1e-4, atol=1e-4)
