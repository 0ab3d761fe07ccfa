"""The non-local block (section 3.3 and figure 2 of the paper)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from nlnet.ops import PAIRWISE, dot_product, embedded_gaussian

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_POOL_SIZE = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}


class NonLocalBlock(nn.Module):
    """z_i = x_i + BN(W y_i),  y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j).

    where:
    - x (B, C, [T, [H,]] W) is the input, z of the same shape the output; i runs over the N = T H W positions of x and
      j over the M positions of maxpool(x), N/4 of them for an image or a video ("sub-sampling"), N without it.
    - theta, phi, g: 1x1x1 convolutions C -> D, on x, maxpool(x) and maxpool(x); D is C/2 (the "bottleneck").
    - W: a 1x1x1 convolution D -> C (the paper's W_z), BN its batch norm, whose scale starts at zero: a new block is
      the identity, so a pretrained network keeps its output until it is trained.
    - f, C(x): `pairwise`, a name in `nlnet.ops.PAIRWISE`. "embedded_gaussian": exp(theta_i . phi_j / sqrt(D)) over
      its sum, a softmax; "dot_product": theta_i . phi_j over M.

    Three choices follow the released implementation where it departs from the paper's text: the max pool comes
    before phi and g, not after; the softmax is scaled by 1/sqrt(D) (`scale=False` is the paper's text); the
    convolutions start from a Gaussian of deviation 0.01, biases zero, instead of He's initialisation.

    Args:
        channels: C.
        dims: how many of T, H and W there are: 3 video, 2 image, 1 sequence.
        pairwise: the name of f.
        inner_channels: D, C/2 (at least 1) if None.
        subsample: max-pool x by 2 along H and W (along W in a sequence) before phi and g. A dimension of length 1 is
            left alone.
        scale: scale the softmax by 1/sqrt(D). The dot product has no scale.
        norm: "batch", or "none" for training with frozen statistics, where W starts at zero instead.

    Raises ValueError if an argument or the input's shape does not fit.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 3,
        pairwise: str = "embedded_gaussian",
        *,
        inner_channels: int | None = None,
        subsample: bool = True,
        scale: bool = True,
        norm: Literal["batch", "none"] = "batch",
    ) -> None:
        super().__init__()
        if dims not in _CONV:
            raise ValueError(f"NonLocalBlock: dims must be 1, 2 or 3, got {dims!r}")
        if pairwise not in PAIRWISE:
            raise ValueError(f"NonLocalBlock: unknown pairwise {pairwise!r}, expected one of {', '.join(PAIRWISE)}")
        if norm not in ("batch", "none"):
            raise ValueError(f"NonLocalBlock: norm must be 'batch' or 'none', got {norm!r}")
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        if channels < 1 or inner < 1:
            raise ValueError(f"NonLocalBlock: needs at least one channel, got {channels} and {inner} inner ones")
        self.channels, self.dims, self.inner_channels = channels, dims, inner
        self.pairwise, self.subsample = pairwise, subsample
        self.scale = inner**-0.5 if scale and pairwise == "embedded_gaussian" else 1.0
        conv = _CONV[dims]
        self.theta = conv(channels, inner, kernel_size=1)
        self.phi = conv(channels, inner, kernel_size=1)
        self.g = conv(channels, inner, kernel_size=1)
        self.out = conv(inner, channels, kernel_size=1)
        self.norm = _BATCH_NORM[dims](channels) if norm == "batch" else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions from N(0, 0.01), biases zero; the branch itself starts at zero."""
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.get_parameter("bias"))
        last = self.out if isinstance(self.norm, nn.Identity) else self.norm
        nn.init.zeros_(last.get_parameter("weight"))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """theta (B, N, D), phi (B, M, D) and g (B, M, D) of x (B, C, [T, [H,]] W): what the pairwise function sees."""
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels:
            expected = ("W", "H, W", "T, H, W")[self.dims - 1]
            raise ValueError(f"NonLocalBlock: expected x (B, {self.channels}, {expected}), got {tuple(x.shape)}")
        keys = self._pool(x) if self.subsample else x
        return _positions(self.theta(x)), _positions(self.phi(keys)), _positions(self.g(keys))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [T, [H,]] W) -> the same shape."""
        theta, phi, g = self.embed(x)
        if self.pairwise == "embedded_gaussian":
            y_BND = embedded_gaussian(theta, phi, g, scale=self.scale)
        else:
            y_BND = dot_product(theta, phi, g)
        y = y_BND.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.norm(self.out(y))

    def _pool(self, x: Tensor) -> Tensor:
        size = [min(k, n) for k, n in zip(_POOL_SIZE[self.dims], x.shape[2:], strict=True)]
        return _MAX_POOL[self.dims](x, size)

    def extra_repr(self) -> str:
        return f"pairwise={self.pairwise}, subsample={self.subsample}, scale={self.scale:.4g}"


def _positions(x: Tensor) -> Tensor:
    """(B, D, [T, [H,]] W) -> (B, N, D), a view; in a channels-last layout a contiguous one."""
    return x.flatten(2).transpose(1, 2)
