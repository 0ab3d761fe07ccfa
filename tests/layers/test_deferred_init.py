"""Layers made on the meta device, moved, and started anew: whole, or module by module in any order."""

import os
import socket
from collections.abc import Callable

import pytest
import torch
import torch.multiprocessing as processes
from torch import Tensor, nn

from nlnet import NonLocalBlock, ops
from nlnet.layers import AFNB, APNB, CrissCrossAttention, FrozenAffine, GlobalContextBlock

LAYERS: dict[str, Callable[[], nn.Module]] = {
    **{f"{name}, {norm}": (lambda name=name, norm=norm: NonLocalBlock(8, 2, name, norm=norm))
       for name in ops.PAIRWISE for norm in ("batch", "affine", "none")},
    **{f"preset {name}": (lambda name=name: NonLocalBlock(8, 2, "concatenation", preset=name))
       for name in ("paper", "mmcv")},
    "zero out": lambda: NonLocalBlock(8, 2, zero_init="out"),
    "frozen affine": lambda: FrozenAffine(8),
    "criss-cross": lambda: CrissCrossAttention(64),
    "apnb": lambda: APNB(8, dropout=0.0),
    "afnb": lambda: AFNB(64, 64, dropout=0.0),
    "global context": lambda: GlobalContextBlock(64),
    "global context, both": lambda: GlobalContextBlock(64, fusion=("channel_add", "channel_mul"), pooling="avg"),
}  # fmt: skip


def whole(layer: nn.Module) -> None:
    layer.reset_parameters()


def from_the_top(layer: nn.Module) -> None:
    """As people write it, and as FSDP did."""
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def from_the_bottom(layer: nn.Module) -> None:
    for module in reversed(list(layer.modules())):
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def owners_only(layer: nn.Module) -> None:
    """Only the modules that hold something themselves."""
    for module in layer.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            module.reset_parameters()


def deferred(make: Callable[[], nn.Module], reset: Callable[[nn.Module], None]) -> nn.Module:
    with torch.device("meta"):
        layer = make()
    layer.to_empty(device="cpu")
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else 7)
    torch.manual_seed(0)
    reset(layer)
    return layer


def moments(layer: nn.Module) -> dict[str, tuple[float, float]]:
    """Of every tensor: its mean and its deviation."""
    return {
        key: (float(t.double().mean()), float(t.double().std(correction=0))) for key, t in layer.state_dict().items()
    }


@pytest.mark.parametrize("reset", [whole, from_the_top, from_the_bottom, owners_only])
@pytest.mark.parametrize("name", LAYERS)
def test_it_starts_as_if_it_had_been_made_there(name: str, reset: Callable[[nn.Module], None]) -> None:
    """Constants are equal, and what is random is as wide as in a layer made at once, within its sample's error."""
    torch.manual_seed(1)
    plain, layer = LAYERS[name](), deferred(LAYERS[name], reset)
    for key, (mean, deviation) in moments(plain).items():
        tensor = layer.state_dict()[key]
        assert tensor.isfinite().all(), key
        if deviation == 0:
            assert torch.equal(tensor, plain.state_dict()[key]), key
        else:
            error = 6 * deviation / tensor.numel() ** 0.5
            assert abs(float(tensor.double().mean()) - mean) <= error, key
            assert abs(float(tensor.double().std(correction=0)) - deviation) <= error, key


def test_a_block_is_the_identity_again() -> None:
    x = torch.randn(2, 8, 6, 6)
    for reset in (whole, from_the_top, from_the_bottom, owners_only):
        for training in (True, False):
            block = deferred(lambda: NonLocalBlock(8, 2), reset).train(training)
            assert torch.equal(block(x), x)


def _sharded(rank: int, port: int, results: str) -> None:
    """Two processes that share a block's parameters, deferred; what each computes goes into a file."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(8, 8, 1), NonLocalBlock(8, 2), NonLocalBlock(8, 2, "concatenation"))
    fully_shard(net[1].theta, mesh=mesh)  # a part of a block on its own
    fully_shard(net[2], mesh=mesh)
    fully_shard(net, mesh=mesh)
    net.to_empty(device="cpu")
    for module in net.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            module.reset_parameters()
    x = torch.linspace(-1, 1, 2 * 8 * 36).view(2, 8, 6, 6)
    identity = torch.equal(net(x), net[0](x))
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # the root stays together after a forward pass without a backward one
    for block in net[1:]:
        nn.init.ones_(block.norm.weight)
    loss = net(x).square().mean()
    loss.backward()
    state = {key: p.full_tensor().detach() for key, p in net.named_parameters()}
    grads = {key: p.grad.full_tensor() for key, p in net.named_parameters()}
    if rank == 0:
        torch.save({"identity": identity, "state": state, "grads": grads, "loss": loss.detach()}, results)
    torch.distributed.destroy_process_group()


@pytest.mark.full
def test_deferred_and_sharded(tmp_path: object) -> None:
    """FSDP2 over two processes: the identity at the start, then the loss and the gradients of the same net in one."""
    results = f"{tmp_path}/results.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(_sharded, (port, results), nprocs=2)
    found = torch.load(results, weights_only=True)
    assert found["identity"]
    net = nn.Sequential(nn.Conv2d(8, 8, 1), NonLocalBlock(8, 2), NonLocalBlock(8, 2, "concatenation"))
    net.load_state_dict(found["state"], strict=False)
    x: Tensor = torch.linspace(-1, 1, 2 * 8 * 36).view(2, 8, 6, 6)
    loss = net(x).square().mean()
    loss.backward()
    torch.testing.assert_close(loss.detach(), found["loss"])
    for key, parameter in net.named_parameters():
        torch.testing.assert_close(found["grads"][key], parameter.grad, rtol=1e-4, atol=1e-6, msg=key)
