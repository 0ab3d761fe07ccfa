"""A network whose parameters are spread over the ranks, block by block (FSDP2)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import Bottleneck as ImageBottleneck

from nlnet.distributed import world_size
from nlnet.layers import NonLocalBlock
from nlnet.models.resnet3d import Bottleneck

_BLOCKS = (Bottleneck, NonLocalBlock, ImageBottleneck, BasicBlock)


def shard_network(net: nn.Module, called: Sequence[nn.Module], device: torch.device) -> None:
    """Spread the parameters of `net` over all ranks, in place: each residual and non-local block is a unit.

    A rank holds 1/R of each parameter, gradient and optimizer state, cut along the first dimension; a unit is gathered
    when it runs, and its gradient, averaged over the ranks, scattered right after. Buffers are whole on every rank, and
    those of rank 0 count: they are sent to the others before each pass, as `DistributedDataParallel` does.

    Args:
        net: the network, with the same weights on every rank.
        called: the parts of it that a step calls; what is in no block of theirs is a unit each.
        device: that of this rank.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in list(net.modules()):
        if isinstance(module, _BLOCKS):
            fully_shard(module, mesh=mesh)
    for part in called:
        fully_shard(part, mesh=mesh)
    called[0].register_forward_pre_hook(partial(_share_buffers, net))


def is_sharded(net: nn.Module) -> bool:
    """Whether `shard_network` has done its work."""
    return any(isinstance(module, FSDPModule) for module in net.modules())


def spread_like(state: Any, own: Tensor) -> Any:
    """A whole tensor, or a mapping of such, with what has the shape of the sharded `own` cut as that is."""
    if isinstance(state, Mapping):
        return {name: spread_like(value, own) for name, value in state.items()}
    if not isinstance(state, Tensor) or not isinstance(own, DTensor) or state.shape != own.shape:
        return state
    mesh: DeviceMesh = own.device_mesh
    return distribute_tensor(state, mesh, own.placements, src_data_rank=None)  # every rank has read all of it


@torch.compiler.disable
def _share_buffers(net: nn.Module, module: nn.Module, inputs: Any) -> None:
    if world_size() == 1:
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for buffer in net.buffers():
        kinds.setdefault(buffer.dtype, []).append(buffer)
    with torch.no_grad():
        for buffers in kinds.values():
            together = torch.cat([buffer.reshape(-1) for buffer in buffers])
            dist.broadcast(together, src=0)
            for buffer, value in zip(buffers, together.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(value.view_as(buffer))
