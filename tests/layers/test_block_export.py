"""The block compiled, exported and in ONNX: the numbers of the block itself."""

import io
from pathlib import Path

import pytest
import torch

from helpers.nonlocal_oracle import awake
from nlnet import NonLocalBlock, ops
from nlnet.errors import UserError
from nlnet.layers import APNB, CrissCrossAttention, GlobalContextBlock

# the compiler and the exporter warn about their own parts
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
    "ignore::torch.jit.TracerWarning",
)

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


@pytest.mark.parametrize("pairwise", MODES)
def test_the_older_onnx_exporter_with_dynamic_axes(pairwise: str) -> None:
    """From an example of one small clip: nothing in the program is bound to that."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `export`")
    torch.manual_seed(0)
    block = awake(NonLocalBlock(16, 2, pairwise)).eval()
    stored = io.BytesIO()
    axes = {"x": {0: "b", 2: "h", 3: "w"}}
    torch.onnx.export(block, (torch.randn(1, 16, 4, 4),), stored, dynamo=False, input_names=["x"], dynamic_axes=axes)
    session = onnxruntime.InferenceSession(stored.getvalue(), providers=["CPUExecutionProvider"])
    for size in ((1, 16, 4, 4), (3, 16, 9, 12)):
        x = torch.randn(size)
        (z,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(z), block(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairwise", ops.PAIRWISE)
def test_a_trace_serves_other_sizes(pairwise: str) -> None:
    """Above the size at which the fast algorithms would be taken, too."""
    block = awake(NonLocalBlock(16, 2, pairwise)).eval()
    for size in ((1, 16, 4, 4), (1, 16, 40, 40)):
        traced = torch.jit.trace(block, torch.randn(size))
        for other in ((3, 16, 9, 12), (2, 16, 41, 40)):
            x = torch.randn(other)
            torch.testing.assert_close(traced(x), block(x), rtol=1e-3, atol=1e-3)
        stored = io.BytesIO()
        torch.jit.save(traced, stored)  # plain operations alone


@pytest.mark.parametrize("pairwise", ops.PAIRWISE)
def test_exported_with_named_dimensions(pairwise: str) -> None:
    """Lengths of 4 or more: from 2 and 3 the pooled length of 1 is a case of its own, to PyTorch's pooling too."""
    dim = torch.export.Dim
    block = awake(NonLocalBlock(8, 2, pairwise)).eval()
    names = ({0: dim("b"), 2: dim("h", min=4), 3: dim("w", min=4)},)
    program = torch.export.export(block, (torch.randn(2, 8, 12, 10),), dynamic_shapes=names).module()
    for size in ((1, 8, 4, 4), (3, 8, 40, 44)):
        x = torch.randn(size)
        torch.testing.assert_close(program(x), block(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [NonLocalBlock(8, 2), CrissCrossAttention(8), APNB(8), GlobalContextBlock(16)],
    ids=lambda m: type(m).__name__,
)
def test_scripting_is_refused_in_a_line_that_says_what_works(layer: torch.nn.Module) -> None:
    for module in (layer, torch.nn.Sequential(torch.nn.ReLU(), layer)):
        with pytest.raises(
            UserError, match=rf"^{type(layer).__name__}: torch.jit.script cannot .* torch.export.export"
        ):
            torch.jit.script(module)
