"""Graphs over the regions of a clip, and the convolutions on them (Wang and Gupta 2018, sections 3 and 4).

Shapes: B clips, T frames, N regions of a frame, D channels of a node.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet import ops

_NOT_A_KEY = -3e4  # added to a logit, and within float16: exp of it is 0


class SimilarityGraph(nn.Module):
    """G_sim[i, j] = softmax_j((w x_i)^T (w' x_j)) over the nodes of all frames (equations 2 and 3).

    It is the map of the embedded Gaussian non-local operation, with regions instead of positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta, self.phi = (nn.Linear(channels, channels, bias=False) for _ in range(2))
        for layer in (self.theta, self.phi):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, x_BMD: Tensor, exists_BM: Tensor) -> Tensor:
        """(B, M, M) of M nodes (B, M, D); columns of those that do not exist are zero."""
        theta, phi = self.theta(x_BMD), self.phi(x_BMD)
        # A channel that is 1 in every theta adds its value in phi to each logit of a key.
        mask = torch.where(exists_BM, 0.0, _NOT_A_KEY).to(phi.dtype).unsqueeze(-1)
        theta = torch.cat([theta, torch.ones_like(mask)], -1)
        return ops.affinity("embedded_gaussian", theta, torch.cat([phi, mask], -1))


class SimilarityBranch(nn.Module):
    """Z = G_sim X W + X, so many times, with layer norm and ReLU between (equation 6)."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.links = SimilarityGraph(channels)
        self.weights = nn.ModuleList(_weight(channels) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(layers - 1))

    def forward(self, x_BTND: Tensor, exists_BTN: Tensor) -> Tensor:
        x = x_BTND.flatten(1, 2)
        graph = self.links(x, exists_BTN.flatten(1, 2))
        for k, weight in enumerate(self.weights):
            x = _between(self.norms, k, x)
            x = torch.bmm(graph, weight(x)) + x
        return x.unflatten(1, x_BTND.shape[1:3])


class SpaceTimeBranch(nn.Module):
    """Z = G_front X W_front + G_back X W_back + X, so many times, with layer norm and ReLU between (equation 6)."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.front = nn.ModuleList(_weight(channels) for _ in range(layers))
        self.back = nn.ModuleList(_weight(channels) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(layers - 1))

    def forward(self, x_BTND: Tensor, front_BTNN: Tensor, back_BTNN: Tensor) -> Tensor:
        """The graphs are those of `nlnet.models.graphs.boxes`, (B, T - 1, N, N)."""
        x = x_BTND
        front_BTNN, back_BTNN = front_BTNN.to(x.dtype), back_BTNN.to(x.dtype)
        for k, (front, back) in enumerate(zip(self.front, self.back, strict=True)):
            x = _between(self.norms, k, x)
            ahead, behind = torch.matmul(front_BTNN, front(x)[:, 1:]), torch.matmul(back_BTNN, back(x)[:, :-1])
            # The last frame has none after it, the first none before it.
            x = F.pad(ahead, (0, 0, 0, 0, 0, 1)) + F.pad(behind, (0, 0, 0, 0, 1, 0)) + x
        return x


def _weight(channels: int) -> nn.Linear:
    return nn.Linear(channels, channels, bias=False)


def _between(norms: nn.ModuleList, layer: int, x: Tensor) -> Tensor:
    return x if layer == 0 else F.relu(norms[layer - 1](x))
