"""Between maps (B, C, [T, [H,]] W) and lists of positions (B, N, C), with as few copies as their layout allows.

A map in a channels-last layout is a list of positions already, and one in the default layout is that list transposed:
both are views. A 1x1x1 convolution is a matrix product on either.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nlnet.ops import is_recorded


def to_positions(x: Tensor) -> Tensor:
    """(B, C, [T, [H,]] W) -> (B, N, C), a view; of a channels-last map a contiguous one."""
    return x.flatten(2).transpose(1, 2)


def to_map(x_BNC: Tensor, size: torch.Size) -> Tensor:
    """(B, N, C) -> (B, C, [T, [H,]] W), a view; of a contiguous list a channels-last one."""
    return x_BNC.transpose(1, 2).unflatten(2, size)


def project(x_BNC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1x1 convolution, weight (D, C, [1, [1,]] 1) and bias (D,): (B, N, C) -> (B, N, D), contiguous."""
    weight_DC = weight.flatten(1)
    if x_BNC.is_contiguous():
        return F.linear(x_BNC, weight_DC, bias)
    # a transposed list would be copied by F.linear, and the copy kept for the backward pass
    if _weights_outweigh(x_BNC, weight_DC):
        x_NC = x_BNC[0]
        return (x_NC @ weight_DC.t() if bias is None else torch.addmm(bias, x_NC, weight_DC.t()))[None]
    weight_BCD = weight_DC.t().expand(x_BNC.shape[0], -1, -1)
    return torch.bmm(x_BNC, weight_BCD) if bias is None else torch.baddbmm(bias, x_BNC, weight_BCD)


def project_to_map(y_BND: Tensor, weight: Tensor, bias: Tensor | None, like: Tensor) -> Tensor:
    """A 1x1x1 convolution of y (B, N, D) as a map (B, C, [T, [H,]] W) in the size and the layout of `like`."""
    if to_positions(like).is_contiguous():
        return to_map(F.linear(y_BND, weight.flatten(1), bias), like.shape[2:])
    weight_CD = weight.flatten(1)
    if _weights_outweigh(y_BND, weight_CD):
        y_DN = y_BND[0].t()
        out_CN = weight_CD @ y_DN if bias is None else torch.addmm(bias[:, None], weight_CD, y_DN)
        return out_CN.unflatten(1, like.shape[2:])[None]
    return project_each_to_map(y_BND, weight_CD.expand(y_BND.shape[0], -1, -1), bias, like)


def _weights_outweigh(x_BNC: Tensor, weight: Tensor) -> bool:
    """Whether x is one clip, and much smaller than the weights: a batched product would spend its time copying their
    gradient, which a plain one has in their own layout."""
    return not is_recorded() and x_BNC.shape[0] == 1 and 2 * x_BNC.numel() <= weight.numel()


def project_each_to_map(y_BND: Tensor, weight_BCD: Tensor, bias: Tensor | None, like: Tensor) -> Tensor:
    """`project_to_map` with a convolution of its own for each clip."""
    if to_positions(like).is_contiguous():
        weight_BDC = weight_BCD.transpose(1, 2)
        y_BNC = torch.bmm(y_BND, weight_BDC) if bias is None else torch.baddbmm(bias, y_BND, weight_BDC)
        return to_map(y_BNC, like.shape[2:])
    y_BDN = y_BND.transpose(1, 2)
    out_BCN = torch.bmm(weight_BCD, y_BDN) if bias is None else torch.baddbmm(bias[:, None], weight_BCD, y_BDN)
    return out_BCN.unflatten(2, like.shape[2:])


def max_pool(x: Tensor) -> Tensor:
    """Max pool by 2 along H and W, along W in a sequence, never along T. A dimension of length 1 is left alone."""
    window = [min(2, n) for n in x.shape[2:][-2:]]
    if x.ndim == 3:
        return F.max_pool1d(x, window)
    if x.ndim == 4:
        return F.max_pool2d(x, window)
    # Frame by frame: faster than the 3-D pool, and its CUDA backward has a deterministic form, which that one's lacks.
    if x.is_contiguous():
        return F.max_pool2d(x.flatten(1, 2), window).unflatten(1, x.shape[1:3])
    # With the channels last on the way: the strides of one frame would not say that they are.
    frames = F.max_pool2d(x.movedim(1, -1).flatten(0, 1).movedim(-1, 1), window)
    return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def split(t: Tensor, regions: int, *, interleaved: bool) -> Tensor:
    """(B, N, ...) -> (B R, N / R, ...): the positions of each of R regions, as clips of their own.

    The regions follow one another in N, such as groups of frames, or, interleaved, take turns, such as the locations
    of a frame.
    """
    if regions == 1:
        return t
    parts = t.unflatten(1, (-1, regions)).transpose(1, 2) if interleaved else t.unflatten(1, (regions, -1))
    return parts.flatten(0, 1)


def join(t: Tensor, regions: int, *, interleaved: bool) -> Tensor:
    """The inverse of `split`: (B R, N / R, ...) -> (B, N, ...)."""
    if regions == 1:
        return t
    parts = t.unflatten(0, (-1, regions))
    return (parts.transpose(1, 2) if interleaved else parts).flatten(1, 2)
