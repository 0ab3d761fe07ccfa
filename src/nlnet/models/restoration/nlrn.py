"""The non-local recurrent network (NLRN)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet.models.restoration.denoiser import Denoiser, conv3x3
from nlnet.ops import windowed


class NLRN(Denoiser):
    """One block with one set of weights, applied `steps` times to the features of an image.

    h_0 = conv(x),  h_t = h_0 + conv(relu(norm(conv(norm(z_t))))),  z_t = u_t + y_t,  u_t = relu(norm(h_{t-1}))
    y_t,i = sum_{j in W(i)} softmax_j(s_t,ij) g(u_t,j),  s_t,ij = s_{t-1,ij} + theta(u_t,i) . phi(u_t,j)
    result = x + conv(relu(norm(h_steps)))

    where:
    - W(i) is the window of i, see `nlnet.ops.windowed`.
    - s_t is the correlation of two positions, which goes from a step to the next (section 3 of the paper). As a sum of
      products it is the product of all the theta and all the phi so far, so no map of it is kept.
    - theta, phi (width -> inner_channels) and g (width -> width) are 1x1 convolutions. g starts at zero.
    - The last convolution starts at zero, too: a new network leaves an image as it is. That is ours; the released code
      works on values from 0 to 255, among which the start of any network is a small change.

    330,625 parameters in the convolutions of the published size (paper: 0.33 M) and 1,024 in the norms. A step has
    statistics of its own in each norm; scales and shifts are shared as all weights are, where the code released with
    an early version has them for every step, and a norm on the image itself (340,099 parameters in all). That one is
    left out: the mean and the deviation of a few patches say little of another image's, and the noise is to be told in
    absolute terms. With batches of 8 patches it costs more than a dB after the first 50 steps.

    Source: Liu et al., NeurIPS 2018, section 4.

    Args:
        channels: of the images.
        width: channels of the features.
        inner_channels: of theta and phi.
        steps: how often the block is applied.
        window: side of the window, odd.
    """

    def __init__(
        self, channels: int, *, width: int = 128, inner_channels: int = 64, steps: int = 12, window: int = 35
    ) -> None:
        super().__init__(f"NLRN-{steps}", channels, reach=2 + steps * (2 + window // 2))
        self.steps, self.window = steps, window
        self.conv_in = conv3x3(channels, width)
        self.norm_1, self.norm_2, self.norm_3 = (StepNorm(width, steps) for _ in range(3))
        self.theta, self.phi = (nn.Conv2d(width, inner_channels, 1) for _ in range(2))
        self.g = nn.Conv2d(width, width, 1)
        self.conv_1, self.conv_2 = conv3x3(width, width), conv3x3(width, width)
        self.norm_out, self.conv_out = nn.BatchNorm2d(width), conv3x3(width, channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))
        nn.init.zeros_(self.g.weight)
        nn.init.zeros_(self.conv_out.weight)

    def residual(self, images: Tensor) -> Tensor:
        first = state = self.conv_in(images)
        thetas: list[Tensor] = []
        phis: list[Tensor] = []
        for step in range(self.steps):
            x = self.norm_1(state, step).relu()
            thetas.append(self.theta(x))
            phis.append(self.phi(x))
            x = x + windowed(torch.cat(thetas, 1), torch.cat(phis, 1), self.g(x), window=self.window)
            x = self.conv_1(self.norm_2(x, step))
            x = self.conv_2(self.norm_3(x, step).relu())
            state = first + x
        return cast(Tensor, self.conv_out(self.norm_out(state).relu()))


class StepNorm(nn.Module):
    """Batch norm in a block that is applied several times: statistics for every step, one scale and one shift."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, steps: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(steps, channels))
        self.register_buffer("running_var", torch.ones(steps, channels))

    def forward(self, x: Tensor, step: int) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        mean, var = self.running_mean[step], self.running_var[step]
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)
