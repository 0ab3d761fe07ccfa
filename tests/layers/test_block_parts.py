"""Parts of the block that are not plain convolutions: hooks, parametrizations and other modules in their place."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from helpers.nonlocal_oracle import awake, block_by_hand
from nlnet import NonLocalBlock, ops
from nlnet.errors import UserError

PAIRWISE = list(ops.PAIRWISE)
# The old forms are what people have in their code.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated", "ignore:.*spectral_norm.*is deprecated")


class Adapter(nn.Module):
    """conv(x) + up(down(x)), as LoRA does it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.base, kind = conv, type(conv).__mro__[2]
        weight = conv.weight
        self.down = kind(weight.shape[1], 1, 1, bias=False)
        self.up = kind(1, weight.shape[0], 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def replaced(block: NonLocalBlock, name: str) -> None:
    setattr(block, name, Adapter(getattr(block, name)))


def pruned(block: NonLocalBlock, name: str) -> None:
    prune.l1_unstructured(getattr(block, name), "weight", amount=0.5)
    with torch.no_grad():  # as a step of an optimizer does
        getattr(block, name).weight_orig.mul_(3)


def spectral(block: NonLocalBlock, name: str) -> None:
    spectral_norm(getattr(block, name))
    with torch.no_grad():
        getattr(block, name).weight_orig.mul_(3).add_(0.1)


def weighted(block: NonLocalBlock, name: str) -> None:
    weight_norm(getattr(block, name))
    with torch.no_grad():
        getattr(block, name).weight_g.mul_(3)


CHANGES: dict[str, Callable[[NonLocalBlock, str], object]] = {
    "adapter": replaced,
    "pruned": pruned,
    "spectral norm": spectral,
    "weight norm": weighted,
    "spectral norm, parametrized": lambda block, name: parametrizations.spectral_norm(getattr(block, name)),
    "parametrized": lambda block, name: parametrize.register_parametrization(getattr(block, name), "weight", Doubled()),
    "hooked": lambda block, name: getattr(block, name).register_forward_hook(lambda module, args, output: output * 2),
    "hooked before": lambda block, name: getattr(block, name).register_forward_pre_hook(
        lambda module, args: 2 * args[0]
    ),
}


def parts(pairwise: str) -> list[str]:
    names = ["theta", "phi", "g", "out", "concat_project"]
    return [name for name in names if hasattr(NonLocalBlock(4, 2, pairwise), name)]


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("order", ["before", "after"])
def test_what_is_not_plain_is_called(pairwise: str, change: str, order: str) -> None:
    """Each part alone: the block is the equation with that part's own output, and its gradients reach everything."""
    for name in parts(pairwise):
        torch.manual_seed(0)
        block = awake(NonLocalBlock(6, 2, pairwise, subsample_order=order)).double().eval()
        x = torch.randn(2, 6, 6, 5, dtype=torch.float64)
        plain = block(x)
        CHANGES[change](block, name)
        block.double().eval()
        z = block(x)
        torch.testing.assert_close(z, block_by_hand(block, x), rtol=1e-9, atol=1e-9)
        assert (z - plain).abs().max() > 1e-6, name
        z.square().sum().backward()
        mine = [p.grad for p in block.get_submodule(name).parameters()]
        assert all(grad is not None for grad in mine), name


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_norm_of_weights_moves_with_training(pairwise: str) -> None:
    """The weights in use are those of the parameters now, and every part is called once in a step."""
    block = awake(NonLocalBlock(6, 2, pairwise)).double()
    calls: list[str] = []
    for name in parts(pairwise):
        spectral_norm(getattr(block, name))
        getattr(block, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    x = torch.randn(2, 6, 6, 5, dtype=torch.float64)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    before = block.eval()(x)
    for _ in range(3):
        calls.clear()
        block.train()(x).square().mean().backward()
        assert sorted(calls) == sorted(parts(pairwise))
        optimizer.step()
        z = block.eval()(x)
        torch.testing.assert_close(z, block_by_hand(block, x), rtol=1e-9, atol=1e-9)
        assert not torch.equal(z, before)
        before = z


def test_chosen_rows_of_the_map_know_the_parts() -> None:
    for pairwise in PAIRWISE:
        block = awake(NonLocalBlock(6, 2, pairwise, norm="none")).double()
        for name in parts(pairwise):
            replaced(block, name)
        x = torch.randn(1, 6, 6, 5, dtype=torch.float64)
        query, key, _ = block.double().embed(x)
        full = ops.affinity(pairwise, query, key, **({"scale": block.scale} if block.function.has_scale else {}))
        torch.testing.assert_close(block.attention(x, [3, 17]), full[:, [3, 17]])


def test_what_cannot_stand_there_is_named() -> None:
    x = torch.randn(2, 6, 6, 5)
    block = awake(NonLocalBlock(6, 2))
    block.phi = nn.Conv2d(6, 4, 1)
    with pytest.raises(UserError, match=r"Conv2d stands for a 1x1x1 convolution .* to \(2, 3, 3, 2\), not to \(2, 4"):
        block(x)
    block = awake(NonLocalBlock(6, 2))
    block.out = nn.LSTM(2, 2)
    block.out.forward = lambda x: (x, x)
    with pytest.raises(UserError, match=r"LSTM stands for .* not to a tuple"):
        block(x)
    for wrong in (nn.Conv2d(6, 1, 1), nn.Sequential(nn.Conv2d(6, 1, 1, bias=False), nn.Tanh())):
        block = awake(NonLocalBlock(6, 2, "concatenation"))
        block.concat_project = wrong
        with pytest.raises(UserError, match=r"concat_project is a .* not linear or has a bias"):
            block(x)


def test_a_part_replaced_by_a_larger_convolution_is_that() -> None:
    block = awake(NonLocalBlock(6, 2)).double().eval()
    block.theta = nn.Conv2d(6, 3, 3, padding=1)
    x = torch.randn(2, 6, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(block.double()(x), block_by_hand(block, x))
    query, key, _ = block.embed(x)
    full = ops.affinity("embedded_gaussian", query, key, scale=block.scale)
    torch.testing.assert_close(block.attention(x, [3, 17]), full[:, [3, 17]])
