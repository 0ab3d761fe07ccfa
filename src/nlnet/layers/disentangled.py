"""The disentangled non-local block (DNL)."""

import torch
from torch import Tensor

from nlnet.layers.dims import Layer, check_arguments, check_map
from nlnet.layers.pointwise import NORM, point_conv
from nlnet.ops import embedded_gaussian, global_context


class DisentangledNonLocalBlock(Layer):
    """z_i = x_i + BN(W y_i),  y_i = sum_j (softmax_j(a_ij) + softmax_j(m_j)) g_j,
    a_ij = (q_i - mu_q) . (k_j - mu_k) / (tau sqrt(D)).

    where:
    - x (B, C, [T, [H,]] W) is the input, z of the same shape the output; i and j run over all N positions.
    - q, k, g: 1x1 convolutions C -> D of x, D being C/2; mu_q, mu_k: the means of q and k over the positions of an
      image. What is left is the *whitened pairwise* term, which knows no key that all positions prefer.
    - m: a 1x1 convolution C -> 1, the *unary* term, which is the same for all positions i and so computed once.
    - tau: the temperature, which the paper's text does not have and its released code does.
    - W: a 1x1 convolution D -> C without a bias, BN its batch norm, whose scale starts at zero: a new block is the
      identity.

    >>> import torch
    >>> from nlnet.layers import DisentangledNonLocalBlock
    >>> x = torch.randn(2, 16, 12, 12)
    >>> torch.equal(DisentangledNonLocalBlock(16)(x), x)  # the identity, until it is trained
    True

    Source: Disentangled Non-Local Neural Networks (Yin et al., ECCV 2020), section 4, for segmentation.

    Args:
        channels: C.
        dims: 1 sequence, 2 image, 3 video.
        inner_channels: D, C/2 (at least 1) if None.
        temperature: tau; 0.05 is the released networks'.
        zero_init: whether the norm's scale starts at zero, or at one.

    Raises ValueError if an argument or the input's shape does not fit.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        *,
        inner_channels: int | None = None,
        temperature: float = 0.05,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        check_arguments("DisentangledNonLocalBlock", dims, (channels, inner))
        if not temperature > 0:
            raise ValueError(f"DisentangledNonLocalBlock: temperature must be above 0, got {temperature}")
        self.channels, self.dims, self.scale = channels, dims, inner**-0.5 / temperature
        self.theta, self.phi, self.g = (point_conv(dims, channels, inner, start="normal") for _ in range(3))
        self.mask = point_conv(dims, channels, 1, start="normal")
        self.out = point_conv(dims, inner, channels, bias=False, start="normal")
        self.norm = NORM[dims](channels)
        self.norm.zero = zero_init
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [T, [H,]] W) -> the same shape."""
        check_map("DisentangledNonLocalBlock", "x", x, self.channels, self.dims)
        query_BND, key_BND, g_BND = (conv(x).flatten(2).transpose(1, 2) for conv in (self.theta, self.phi, self.g))
        pairwise_BND = embedded_gaussian(_whitened(query_BND), _whitened(key_BND), g_BND, scale=self.scale)
        unary_BD = global_context(self.mask(x).flatten(1), g_BND)
        y = (pairwise_BND + unary_BD[:, None]).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.norm(self.out(y))


def _whitened(x_BND: Tensor) -> Tensor:
    """x minus its mean over the positions, taken in float32 at least: half precision would lose what is left."""
    wide = x_BND.to(torch.promote_types(x_BND.dtype, torch.float32))
    return (wide - wide.mean(dim=1, keepdim=True)).to(x_BND.dtype)
