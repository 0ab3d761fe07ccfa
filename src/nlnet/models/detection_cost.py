"""What a detector costs, and where its blocks are, in the line that a run starts with."""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from nlnet.layers import GlobalContextBlock, NonLocalBlock


@dataclass(frozen=True)
class DetectorSummary:
    """`str()` is one line, such as "Mask R-CNN R50-FPN, no extra blocks: 44.40 M parameters, 220 GMACs at 800x1088"."""

    title: str
    parameters: int
    gmacs: float
    """Billions of multiply-adds for one image: backbone and pyramid, and the heads at as many regions as they get."""
    image_size: tuple[int, int]
    nonlocal_blocks: list[str]
    """The places of the non-local blocks, such as "backbone.body.layer3.5"."""
    context_blocks: int
    """How many global context blocks there are."""

    def __str__(self) -> str:
        count = len(self.nonlocal_blocks)
        blocks = [f"{count} non-local block{'s' * (count > 1)} ({', '.join(self.nonlocal_blocks)})"] if count else []
        blocks += [f"{self.context_blocks} global context blocks"] if self.context_blocks else []
        gmacs = f"{self.gmacs:.1f}" if self.gmacs >= 1 else f"{self.gmacs:.3f}"
        height, width = self.image_size
        cost = f"{self.parameters / 1e6:.2f} M parameters, {gmacs} GMACs at {height}x{width}"
        return f"{self.title}, {', '.join(blocks) or 'no extra blocks'}: {cost}"


def describe_detector(net: GeneralizedRCNN, image_size: tuple[int, int]) -> DetectorSummary:
    """Parameters, multiply-adds and blocks of `net` for one image (3, H, W), without computing anything.

    Counted in evaluation: the box head at every proposal that it is given at most, the mask and keypoint heads at every
    detection that an image may have. Convolutions, products and attention count; norms, activations and pooling do not.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it imports triton

    modes = {module: module.training for module in net.modules()}
    work = _Work(net).eval()
    state = {name: t.to("meta") for name, t in chain(work.named_parameters(), work.named_buffers())}
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(work, state, (torch.empty((1, 3, *image_size), device="meta"),))
    finally:
        for module, was in modes.items():
            module.training = was
    blocks = [name for name, module in net.named_modules() if isinstance(module, NonLocalBlock)]
    return DetectorSummary(
        title=getattr(net, "title", type(net).__name__),
        parameters=sum(p.numel() for p in net.parameters()),
        gmacs=counter.get_total_flops() / 2e9,
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
