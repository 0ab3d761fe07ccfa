"""The non-local block from the equation: the whole map stored, pairs that may not meet masked out of it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet import NonLocalBlock
from nlnet.layers import FrozenAffine

POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
WINDOW = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}


def awake(block: NonLocalBlock) -> NonLocalBlock:
    """Gives the block weights with which every part of it matters."""
    generator = torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter) * 0.5
    for name, buffer in block.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        elif buffer.is_floating_point():
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return block


def positions(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def pool(block: NonLocalBlock, x: Tensor) -> Tensor:
    return POOL[block.dims](x, WINDOW[block.dims]) if block.subsample else x


def meeting(block: NonLocalBlock, size: torch.Size, key_size: torch.Size) -> Tensor:
    """(N, M), which pairs may meet, from the frames and locations of both."""
    n, m = size.numel(), key_size.numel()
    if block.dims < 3:
        return torch.ones(n, m, dtype=torch.bool)
    i, j = torch.arange(n)[:, None], torch.arange(m)[None]
    area, key_area = n // size[0], m // key_size[0]
    if block.axes == "time":
        return i % area == j % key_area
    frames = {"space": 1}.get(block.axes, block.temporal_group or size[0])
    return i // area // frames == j // key_area // frames


def keys_by_hand(block: NonLocalBlock, conv: nn.Module, x: Tensor) -> Tensor:
    """(B, D, ...) the convolution of x, pooled on the side that the block says."""
    return conv(pool(block, x)) if block.subsample_order == "before" else pool(block, conv(x))


def map_by_hand(block: NonLocalBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x_i, x_j) / C(x) (B, N, M), zero for pairs that may not meet, and which may (N, M)."""
    if block.pairwise == "gaussian":
        query, key = x, pool(block, x)
    else:
        query, key = block.theta(x), keys_by_hand(block, block.phi, x)
    meets = meeting(block, x.shape[2:], key.shape[2:])
    query, key = positions(query), positions(key)
    if block.pairwise == "concatenation":
        pairs = [query[:, :, None].expand(-1, -1, key.shape[1], -1), key[:, None].expand(-1, query.shape[1], -1, -1)]
        f = F.relu(block.concat_project(torch.cat(pairs, 3).permute(0, 3, 1, 2)).squeeze(1))
    else:
        f = query @ key.transpose(1, 2) * block.scale
    if block.pairwise in ("gaussian", "embedded_gaussian"):
        return f.masked_fill(~meets, -torch.inf).softmax(2), meets
    return f * meets / meets.sum(1, keepdim=True), meets


def block_by_hand(block: NonLocalBlock, x: Tensor) -> Tensor:
    """z = x + norm(W y); in eval mode the norm is written out too."""
    weights, _ = map_by_hand(block, x)
    y = weights @ positions(keys_by_hand(block, block.g, x))
    out = block.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))
    norm, channel = block.norm, (1, -1, *(1,) * block.dims)
    if isinstance(norm, FrozenAffine):
        out = out * norm.weight.view(channel) + norm.bias.view(channel)
    elif isinstance(norm, nn.modules.batchnorm._BatchNorm):
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        out = (out - norm.running_mean.view(channel)) * gain.view(channel) + norm.bias.view(channel)
    return x + out
