"""What a detector costs, and where its blocks are, in the line that a run starts with."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from nlnet.layers import GlobalContextBlock, NonLocalBlock
from nlnet.models.probe import multiply_adds
from nlnet.models.summary import cost_line, counted, title_of


@dataclass(frozen=True)
class DetectorSummary:
    """`str()` is one line, such as "Mask R-CNN R50-FPN, no extra blocks: 44.40 M parameters, 220 GMACs at 800x1088"."""

    title: str
    parameters: int
    gmacs: float
    """Billions of multiply-adds for one image: backbone and pyramid, and the heads at as many regions as they get."""
    image_size: tuple[int, int]
    nonlocal_blocks: list[str]
    """Where the non-local blocks are, such as "backbone.body.layer3.5"."""
    context_blocks: int
    """How many global context blocks there are."""

    def __str__(self) -> str:
        blocks = []
        if self.nonlocal_blocks:
            blocks = [f"{counted(len(self.nonlocal_blocks), 'non-local block')} ({', '.join(self.nonlocal_blocks)})"]
        if self.context_blocks:
            blocks.append(counted(self.context_blocks, "global context block"))
        cost = cost_line(self.parameters, self.gmacs, self.image_size)
        return f"{self.title}, {', '.join(blocks) or 'no extra blocks'}: {cost}"


def describe_detector(net: GeneralizedRCNN, image_size: tuple[int, int]) -> DetectorSummary:
    """Parameters, multiply-adds and blocks of `net` for one image (3, H, W), without computing anything.

    Counted in evaluation: the box head at every proposal that it is given at most, the mask and keypoint heads at every
    detection that an image may have.
    """
    macs = multiply_adds(_Work(net), (1, 3, *image_size))
    blocks = [name for name, module in net.named_modules() if isinstance(module, NonLocalBlock)]
    return DetectorSummary(
        title=title_of(net),
        parameters=sum(p.numel() for p in net.parameters()),
        gmacs=macs / 1e9,
        image_size=image_size,
        nonlocal_blocks=[name.rsplit(".", 1)[0] for name in blocks],
        context_blocks=sum(isinstance(module, GlobalContextBlock) for module in net.modules()),
    )


class _Work(nn.Module):
    """Every part of a detector that multiplies, once, at the sizes that it works at."""

    def __init__(self, net: GeneralizedRCNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> None:
        net, heads = self.net, self.net.roi_heads
        features = list(net.backbone(image).values())
        net.rpn.head(features)
        channels, device = features[0].shape[1], image.device
        regions = {
            "box": net.rpn._post_nms_top_n["testing"],
            "mask": heads.detections_per_img,
            "keypoint": heads.detections_per_img,
        }
        for kind, count in regions.items():
            pool, head, predictor = (getattr(heads, f"{kind}_{part}") for part in ("roi_pool", "head", "predictor"))
            if head is not None:
                predictor(head(torch.empty((count, channels, *pool.output_size), device=device)))
