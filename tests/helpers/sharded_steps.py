"""Two ranks that take the same steps with a wrapped and with a sharded network, and write the latter in shards."""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from helpers.processes import become
from nlnet import build_model
from nlnet.runs.sharding.network import shard_network
from nlnet.runs.sharding.saving import write_shards

STEPS = 3


def take_steps(rank: int, world_size: int, port: int, folder: str) -> None:
    """Rank 0 writes `losses.json`, `wrapped.pt` and the checkpoint `sharded.ckpt` of both networks' last states."""
    torch.set_num_threads(1)
    become(rank, world_size, port)
    dist.init_process_group("gloo")
    try:
        plain, sharded = _network(), _network()
        wrapped = DistributedDataParallel(plain)
        shard_network(sharded, [sharded], torch.device("cpu"))
        losses, states = {}, {}
        for name, net in (("wrapped", wrapped), ("sharded", sharded)):
            optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
            losses[name] = _trained(net, optimizer, rank)
            module = plain if net is wrapped else net
            states[name] = {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}
        place = Path(folder, "sharded.ckpt")
        left = write_shards(states["sharded"], place)
        if rank == 0:
            torch.save(left, place)
            torch.save(states["wrapped"], Path(folder, "wrapped.pt"))
            Path(folder, "losses.json").write_text(json.dumps(losses))
    finally:
        dist.destroy_process_group()
    os._exit(0)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("c2d_demo", nonlocal_blocks=2, num_classes=4).train()


def _trained(net: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> list[float]:
    torch.manual_seed(rank + 1)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss: Tensor = net(torch.randn(2, 3, 4, 16, 16)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses
