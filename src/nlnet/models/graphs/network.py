"""A video network whose last features are read in regions that a graph relates (Wang and Gupta 2018, figure 2).

Shapes: B clips, T frames of the last feature map, N regions of each, D channels of a node, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from nlnet.errors import UserError
from nlnet.models.graphs.boxes import back_graph, front_graph, is_box, with_whole_frames
from nlnet.models.graphs.layers import SimilarityBranch, SpaceTimeBranch
from nlnet.models.resnet3d import ResNet3d

GRAPHS = ("joint", "similarity", "spacetime", "none")
_CELLS = 7  # of a region, along each side


class Attention(NamedTuple):
    """What links the regions of a clip, row i to column j: `similarity` (B, T N, T N), `front` and `back`
    (B, T - 1, N, N); and the `boxes` (B, T, N, 4) themselves. None for a graph that the network does not have."""

    boxes: Tensor
    similarity: Tensor | None
    front: Tensor | None
    back: Tensor | None


class RegionGraph(nn.Module):
    """Nodes (B, T, N, D) and their boxes -> nodes, the branches run apart and summed at the end (section 4.2)."""

    def __init__(self, channels: int, layers: int, graph: str) -> None:
        super().__init__()
        self.similarity = SimilarityBranch(channels, layers) if graph in ("joint", "similarity") else None
        self.spacetime = SpaceTimeBranch(channels, layers) if graph in ("joint", "spacetime") else None

    def forward(self, x_BTND: Tensor, boxes_BTN4: Tensor) -> Tensor:
        parts = []
        if self.similarity is not None:
            parts.append(self.similarity(x_BTND, is_box(boxes_BTN4)))
        if self.spacetime is not None:
            parts.append(self.spacetime(x_BTND, front_graph(boxes_BTN4), back_graph(boxes_BTN4)))
        return sum(parts[1:], parts[0]) if parts else x_BTND

    @torch.no_grad()
    def attention(self, x_BTND: Tensor, boxes_BTN4: Tensor) -> Attention:
        """The links of these nodes, as `forward` uses them."""
        links = Attention(boxes_BTN4, None, None, None)
        if self.similarity is not None:
            similarity = self.similarity.links(x_BTND.flatten(1, 2), is_box(boxes_BTN4).flatten(1, 2))
            links = links._replace(similarity=similarity)
        if self.spacetime is not None:
            links = links._replace(front=front_graph(boxes_BTN4), back=back_graph(boxes_BTN4))
        return links


class RegionGraphNet(nn.Module):
    """Clip (B, 3, T', H, W) and boxes (B, T, N, 4) -> logits (B, K).

    The last feature map is projected to D channels by a 1x1x1 convolution, read by RoIAlign in 7 x 7 cells of every
    region of its frame, of which the maximum is a node. The mean of the nodes after the graph, beside the mean of the
    feature map, goes through dropout and a linear layer.

    Boxes are fractions of the clip's sides, as `nlnet.models.graphs.boxes` has them; without any, each frame is one
    region.

    Args:
        backbone: the network whose `features` are read; its classifier is taken off.
        num_classes: K.
        graph: "joint", "similarity", "spacetime"; or "none", which pools the regions without relating them.
        width: D.
        layers: graph convolutions of each branch.
        dropout: the probability before the linear layer.
        fc_std: the standard deviation that its weights start with.
    """

    def __init__(
        self,
        backbone: ResNet3d,
        *,
        num_classes: int,
        graph: str,
        width: int,
        layers: int,
        dropout: float,
        fc_std: float,
    ) -> None:
        super().__init__()
        channels = backbone.fc.in_features
        del backbone.fc, backbone.hidden, backbone.dropout
        self.title = f"{backbone.title} and " + {"none": "pooled regions"}.get(graph, f"a {graph} region graph")
        self.backbone = backbone
        self.project = nn.Conv3d(channels, width, 1)
        nn.init.kaiming_normal_(self.project.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]
        self.region_graph = RegionGraph(width, layers, graph)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels + width, num_classes)
        nn.init.normal_(self.fc.weight, std=fc_std)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x_BCTHW: Tensor, boxes_BTN4: Tensor | None = None) -> Tensor:
        features, nodes, boxes = self._nodes(x_BCTHW, boxes_BTN4)
        related = self.region_graph(nodes, boxes)
        there = is_box(boxes).to(related.dtype).unsqueeze(-1)
        mean_BD = (related * there).sum((1, 2)) / there.sum((1, 2))
        return self.fc(self.dropout(torch.cat([features.mean((2, 3, 4)), mean_BD], 1)))

    def attention(self, x_BCTHW: Tensor, boxes_BTN4: Tensor | None = None) -> Attention:
        """What links the regions of these clips."""
        with torch.no_grad():
            _, nodes, boxes = self._nodes(x_BCTHW, boxes_BTN4)
            return self.region_graph.attention(nodes, boxes)

    def further_inputs(self, x_BCTHW: Tensor) -> dict[str, Tensor]:
        """Boxes to try the network with: 8 in each frame, two of which are none."""
        frames = self.backbone.features(x_BCTHW[:1]).shape[2]
        low = torch.linspace(0, 0.5, 8, device=x_BCTHW.device).view(1, 1, 8, 1)
        boxes = torch.cat([low, 0.5 * low, low + 0.25, low + 0.5], -1).expand(len(x_BCTHW), frames, 8, 4).clone()
        boxes[:, :, 6:] = 0
        return {"boxes": boxes}

    def _nodes(self, x_BCTHW: Tensor, boxes_BTN4: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The feature map, the nodes (B, T, N, D), and the boxes with a whole frame where there was none."""
        features = self.backbone.features(x_BCTHW)
        batch, frames = features.shape[0], features.shape[2]
        if boxes_BTN4 is None:
            boxes_BTN4 = features.new_zeros(batch, frames, 1, 4, dtype=torch.float32)
        if boxes_BTN4.ndim != 4 or boxes_BTN4.shape[1] != frames or boxes_BTN4.shape[3] != 4:
            raise UserError(
                f"{self.title}: the boxes {tuple(boxes_BTN4.shape)} are none for the {frames} frames of its last"
                f" feature map; set data.region_frames={frames}"
            )
        boxes = with_whole_frames(boxes_BTN4)
        return features, region_features(self.project(features), boxes), boxes


def region_features(features_BDTHW: Tensor, boxes_BTN4: Tensor) -> Tensor:
    """The maximum of each region's 7 x 7 RoIAlign on its own frame: (B, D, T, H, W), (B, T, N, 4) -> (B, T, N, D).

    Nodes of boxes without area are zero.
    """
    batch, frames, count = boxes_BTN4.shape[:3]
    height, width = features_BDTHW.shape[-2:]
    left, top, right, bottom = boxes_BTN4.unbind(-1)
    # No tensor of the sides: an export would take them for constants.
    rois_BTN4 = torch.stack([left * width, top * height, right * width, bottom * height], -1)
    rois_M4 = rois_BTN4.flatten(0, 2).to(features_BDTHW.dtype)
    frame_M1 = torch.arange(batch * frames, device=rois_M4.device).repeat_interleave(count).unsqueeze(1)
    maps = features_BDTHW.transpose(1, 2).flatten(0, 1).contiguous()
    cells = roi_align(maps, torch.cat([frame_M1.to(rois_M4.dtype), rois_M4], 1), _CELLS, aligned=True)
    nodes = cells.amax((2, 3)).unflatten(0, (batch, frames, count))
    return nodes * is_box(boxes_BTN4).unsqueeze(-1)
