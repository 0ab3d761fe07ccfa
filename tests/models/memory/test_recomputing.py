"""Activation checkpointing: the same numbers from less memory."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from nlnet import build_model
from nlnet.errors import UserError
from nlnet.models.detection.build import build_detector
from nlnet.models.memory.recomputing import recompute_stages
from nlnet.ops import PAIRWISE


def network(pairwise: str = "embedded_gaussian") -> nn.Module:
    torch.manual_seed(0)
    return build_model("c2d_demo", nonlocal_blocks=2, num_classes=4, dropout=0.3, pairwise=pairwise).train()


def trained(net: nn.Module) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of two steps with dropout, and every parameter, statistic and gradient afterwards."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(1)
    x = torch.randn(2, 3, 4, 16, 16)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    gradients = {f"{name}.grad": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return losses, net.state_dict() | gradients


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("stages", [["res3"], ["res2", "res3"]])
def test_losses_gradients_and_statistics_are_the_same_bit_for_bit(pairwise: str, stages: Sequence[str]) -> None:
    assert pairwise in PAIRWISE
    net = network(pairwise)
    recompute_stages(net, stages)
    losses, values = trained(net)
    expected_losses, expected = trained(network(pairwise))
    assert losses == expected_losses
    assert values.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, values[name])] == []
    assert values["res3.0.bn1.num_batches_tracked"] == 2


def test_a_copy_runs_with_weights_of_its_own() -> None:
    net = network()
    recompute_stages(net, ["res2", "res3"])
    other = copy.deepcopy(net)
    before = trained(copy.deepcopy(network()))[0]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert trained(other)[0] == before


def kept(net: nn.Module) -> int:
    """The bytes of activations between forward and backward pass."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in (*net.parameters(), *net.buffers())}
    with saved_tensors_hooks(note, lambda tensor: tensor):
        y = net(torch.randn(1, 3, 4, 32, 32))
    del y
    return sum(size for place, size in storages.items() if place not in own)


def test_less_is_kept() -> None:
    plain, recomputed = network(), network()
    recompute_stages(recomputed, ["res2", "res3"])
    assert kept(recomputed) < 0.5 * kept(plain)


def test_stages_have_the_papers_names_in_detectors_too() -> None:
    torch.manual_seed(0)
    net = build_detector("mask_rcnn", "demo", num_classes=2, norm="batch", trainable_stages=5)
    expected = copy.deepcopy(net)
    recompute_stages(net, ["res4", "res5"])
    x = torch.randn(1, 3, 64, 64)
    for each in (net, expected):
        each.train()
        sum(map(Tensor.sum, each.backbone(x).values())).backward()
    pairs = zip(net.named_parameters(), expected.parameters(), strict=True)
    assert [n for (n, a), b in pairs if (a.grad is None) != (b.grad is None) or (
        a.grad is not None and not torch.equal(a.grad, b.grad))] == []  # fmt: skip


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(UserError, match=r"checkpoint_stages: ResNet3d has no stage res4; nearest: res3, res2"):
        recompute_stages(network(), ["res4"])
