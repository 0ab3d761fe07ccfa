"""Training steps in mixed precision on a CPU, with every pairwise function, blocks that take part from the start."""

import copy

import pytest
import torch
from torch import nn

from nlnet import build_model
from nlnet.ops import PAIRWISE

X, TARGET = torch.randn(4, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])


def network(pairwise: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"zero_init": "none"}
    return build_model(
        "c2d_demo", nonlocal_blocks=2, num_classes=4, dropout=0.0, pairwise=pairwise, nonlocal_options=options
    ).train()


def stepped(net: nn.Module, dtype: torch.dtype | None) -> list[float]:
    """The losses of five steps; those in float16 are scaled."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16, init_scale=256.0)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(net(X).float(), TARGET)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
def test_the_losses_are_those_of_float32(pairwise: str, dtype: torch.dtype) -> None:
    assert pairwise in PAIRWISE
    net = network(pairwise)
    expected = stepped(copy.deepcopy(net), None)
    before = copy.deepcopy(net.state_dict())
    found = stepped(net, dtype)
    assert expected[-1] < expected[0]
    # The Gaussian's scores are sums of squares, and rounded features leave the most of them.
    tolerance = 0.15 if pairwise == "gaussian" else {torch.bfloat16: 0.03, torch.float16: 0.01}[dtype]
    assert found == pytest.approx(expected, rel=tolerance)
    assert all(value.dtype == before[name].dtype for name, value in net.state_dict().items())
    assert not torch.equal(net.state_dict()["res3.0_nonlocal.g.weight"], before["res3.0_nonlocal.g.weight"])
