"""Classical non-local means, the image filter that the non-local operation generalizes."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nlnet.ops.shapes import check

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def nonlocal_means(
    x: Tensor,
    *,
    h: float,
    sigma: float = 0.0,
    patch_size: int = 7,
    search_distance: int = 11,
    patch_weights: Literal["gaussian", "uniform"] = "gaussian",
) -> Tensor:
    """y_i = 1/C_i sum_j f(x_i, x_j) x_j,  f(x_i, x_j) = exp(-max(d_ij - 2 sigma^2, 0) / h^2),  C_i = sum_j f(x_i, x_j).

    where:
    - d_ij = mean_c sum_o w_o (x_c(i + o) - x_c(j + o))^2 is the distance between the patches around i and j: c runs
      over the channels, o over `patch_size` offsets along each axis, from -1 to 1 for a size of 3 and from -1 to 2 for
      4, and the weights w_o sum to one.
    - w_o is a Gaussian of deviation (patch_size - 1) / 4 pixels around the middle of the patch ("gaussian", as
      published) or the same everywhere ("uniform").
    - j runs over the positions at most `search_distance` from i along each axis, i included. With the size of the
      image it runs over all of them: with sigma 0 that is the embedded Gaussian with patches for embeddings.
    - sigma is the deviation of the noise in x: two noisy copies of one patch have d_ij = 2 sigma^2 on average.
    - h, in the units of x, says how unlike two patches may be; about 0.6 to 0.8 sigma where sigma is given.

    Patches reach over the border of the image into its mirror image; positions j do not. Exact: one pass over the
    image for each of half the shifts j - i, so memory is O(N) without gradients, whatever the search distance. Half
    precision is computed in float32.

    >>> import torch
    >>> from nlnet import ops
    >>> noisy = torch.full((1, 1, 16, 16), 0.5) + 0.1 * torch.randn(1, 1, 16, 16)
    >>> ops.nonlocal_means(noisy, h=0.08, sigma=0.1, patch_size=3).std() < noisy.std()
    tensor(True)

    Source: Buades, Coll and Morel, "A non-local algorithm for image denoising", CVPR 2005; sigma: the same, Image
    Processing On Line, 2011.
    Shapes: x (B, C, [T, [H,]] W) -> the same.
    Raises ValueError if x or an option does not fit.
    """
    _check_options(x, h, sigma, patch_size, search_distance, patch_weights)
    if x.dtype in (torch.float16, torch.bfloat16):
        options = {"patch_size": patch_size, "search_distance": search_distance}
        return nonlocal_means(x.float(), h=h, sigma=sigma, **options, patch_weights=patch_weights).to(x.dtype)
    taps = _taps(patch_size, patch_weights, x)
    padded = F.pad(x, ((patch_size - 1) // 2, patch_size // 2) * (x.ndim - 2), mode="reflect")
    y, normalizer = x.clone(), torch.ones_like(x[:, :1])  # j = i, whose weight is one
    for shift in _half_window(search_distance, x.shape[2:]):
        here, there = _pairs(shift, padded.shape[2:])
        distance = _filter((padded[here] - padded[there]).square().mean(dim=1, keepdim=True), taps)
        weight = torch.exp((2 * sigma**2 - distance).clamp(max=0) / h**2)
        here, there = _pairs(shift, x.shape[2:])
        # f is symmetric: one weight serves i for j and j for i
        for i, j in ((here, there), (there, here)):
            y[i].addcmul_(weight, x[j])
            normalizer[i].add_(weight)
    return y / normalizer


def _taps(size: int, patch_weights: str, like: Tensor) -> Tensor:
    """(size,): the weights along one axis; w is their product over the axes."""
    if size == 1 or patch_weights == "uniform":
        return torch.full((size,), 1 / size, dtype=like.dtype, device=like.device)
    deviation = (size - 1) / 4
    taps = [math.exp(-((k - (size - 1) / 2) ** 2) / (2 * deviation**2)) for k in range(size)]
    return torch.tensor([tap / sum(taps) for tap in taps], dtype=like.dtype, device=like.device)


def _filter(x: Tensor, taps: Tensor) -> Tensor:
    """The weighted sum over every full patch: (B, 1, ...) -> the same, shorter by len(taps) - 1 along each axis."""
    axes = x.ndim - 2
    for axis in range(axes):
        shape = [len(taps) if k == axis else 1 for k in range(axes)]
        x = _CONV[axes](x, taps.view(1, 1, *shape))
    return x


def _half_window(distance: int, sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every shift within the distance and the image, one of each pair (t, -t), without zero."""
    reach = [min(distance, size - 1) for size in sizes]
    zero = (0,) * len(reach)
    return (shift for shift in product(*(range(-r, r + 1) for r in reach)) if shift > zero)


def _pairs(shift: Sequence[int], sizes: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where i and i + shift are both inside: the region of i and that of i + shift, with all of B and C."""
    here = [slice(max(0, -t), n - max(0, t)) for t, n in zip(shift, sizes, strict=True)]
    there = [slice(max(0, t), n - max(0, -t)) for t, n in zip(shift, sizes, strict=True)]
    return (slice(None), slice(None), *here), (slice(None), slice(None), *there)


def _check_options(
    x: Tensor, h: float, sigma: float, patch_size: int, search_distance: int, patch_weights: str
) -> None:
    check("nonlocal_means", {"x": (x, "B C " + " ".join("THW"[-min(max(x.ndim - 2, 1), 3) :]))})
    if patch_size < 1 or patch_size // 2 >= min(x.shape[2:]):
        got = f"{patch_size} for x {tuple(x.shape)}"
        raise ValueError(f"nonlocal_means: expected a patch_size from 1 to below twice the shortest axis, got {got}")
    if h <= 0 or sigma < 0 or search_distance < 0:
        got = f"h={h}, sigma={sigma}, search_distance={search_distance}"
        raise ValueError(f"nonlocal_means: expected h > 0, sigma >= 0 and search_distance >= 0, got {got}")
    if patch_weights not in ("gaussian", "uniform"):
        raise ValueError(f"nonlocal_means: patch_weights must be 'gaussian' or 'uniform', got {patch_weights!r}")
