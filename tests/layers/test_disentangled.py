"""The disentangled non-local block: identity at start, and the paper's equation in float64."""

import pytest
import torch
from torch import Tensor

from nlnet.layers import DisentangledNonLocalBlock

SIZES = {1: (5,), 2: (3, 4), 3: (2, 2, 3)}


def awake(dims: int) -> DisentangledNonLocalBlock:
    block = DisentangledNonLocalBlock(6, dims).double()
    generator = torch.Generator().manual_seed(dims)
    for tensor in (*block.parameters(), block.norm.running_mean):
        tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return block.eval()


def oracle(block: DisentangledNonLocalBlock, x: Tensor) -> Tensor:
    """The equation of the docstring, position by position; tau is 0.05."""
    weights = {name: p.flatten(1) if p.ndim > 1 else p for name, p in block.named_parameters()}
    z = x.clone()
    for b in range(len(x)):
        positions = x[b].flatten(1).T  # (N, C)
        q, k, g, m = (
            positions @ weights[f"{n}.weight"].T + weights[f"{n}.bias"] for n in ("theta", "phi", "g", "mask")
        )
        q, k = q - q.mean(0), k - k.mean(0)
        y = torch.zeros_like(q)
        for i in range(len(q)):
            pairwise = torch.stack([q[i] @ k[j] / (0.05 * q.shape[1] ** 0.5) for j in range(len(k))]).softmax(0)
            y[i] = sum((pairwise[j] + m.flatten().softmax(0)[j]) * g[j] for j in range(len(g)))
        w_y = y @ weights["out.weight"].T
        norm = block.norm
        w_y = (w_y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        z[b] += w_y.T.view_as(x[b])
    return z


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_it_is_the_papers_equation(dims: int) -> None:
    x = torch.randn(2, 6, *SIZES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = awake(dims)
    torch.testing.assert_close(block(x), oracle(block, x), rtol=1e-12, atol=1e-12)
    if dims == 1:
        assert torch.autograd.gradcheck(block, (x[:1].requires_grad_(),))


@pytest.mark.parametrize("training", [True, False])
def test_a_new_block_is_the_identity_bit_for_bit(training: bool) -> None:
    x = torch.randn(2, 16, 4, 5)
    assert torch.equal(DisentangledNonLocalBlock(16).train(training)(x), x)


def test_what_all_keys_share_changes_no_attention() -> None:
    """The whitened term: the same vector added to every query and every key."""
    x, block = torch.randn(1, 6, 4, 5, dtype=torch.float64), awake(2)
    before = block(x)
    block.theta.bias.data += 3
    block.phi.bias.data -= 2
    torch.testing.assert_close(block(x), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dims": 4}, "dims must be 1, 2 or 3"), ({"temperature": 0}, "temperature must be above 0")],
)
def test_what_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"DisentangledNonLocalBlock: {message}"):
        DisentangledNonLocalBlock(8, **options)
