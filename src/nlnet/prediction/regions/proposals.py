"""Regions of a frame that may hold an object, of whatever class: torchvision's region proposal network."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import nn

from nlnet.checkpoints.detection import load_detector
from nlnet.data.shards.regions.boxes import VideoRegions
from nlnet.errors import UserError, nearest

_AT_ONCE = 4  # frames


class ProposalNetwork:
    """The proposals of a Faster R-CNN R50-FPN, without its classes.

    Args:
        weights: a file with the state dict of torchvision's network or of a run of ours, or torchvision's name such as
            COCO_V1, which is downloaded.
        top: the proposals of a frame that are kept, the best by objectness.
        short_side: pixels that the short side of a frame is resized to.
        frozen_eps: of the norms of the weights; 0 for torchvision's own COCO_V1.
        device: where to compute.

    Raises UserError for weights that are not there, or of another network.
    """

    def __init__(self, weights: str, *, top: int, short_side: int, frozen_eps: float, device: torch.device) -> None:
        from torchvision.models.detection import fasterrcnn_resnet50_fpn

        self.device, named = device, not Path(weights).expanduser().is_file()
        state = _named(weights) if named else {}
        self.net = fasterrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            min_size=short_side,
            max_size=2 * short_side,
            rpn_post_nms_top_n_test=top,
        )
        if named:
            self.net.load_state_dict(state, strict=False)  # all but counters that frozen norms do not have
            self.identity = weights
        else:
            load_detector(self.net, Path(weights).expanduser())
            self.identity = hashlib.sha256(Path(weights).expanduser().read_bytes()).hexdigest()[:16]
        for norm in self.net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eps = 0.0 if named and weights == "COCO_V1" else frozen_eps
        self.net.eval().to(device)

    @torch.inference_mode()
    def regions(self, numbers: np.ndarray, frames_NHWC: np.ndarray) -> VideoRegions:
        """The regions of these frames (N, H, W, 3) uint8 RGB, which are the `numbers` (N,) of their video."""
        found = {}
        for first in range(0, len(numbers), _AT_ONCE):
            part = torch.from_numpy(frames_NHWC[first : first + _AT_ONCE]).to(self.device)
            given, _ = self.net.transform(list(part.permute(0, 3, 1, 2).float() / 255))
            maps = self.net.backbone(given.tensors)
            proposals, _ = self.net.rpn(given, maps)
            for number, boxes, (height, width) in zip(numbers[first:], proposals, given.image_sizes, strict=False):
                sides = boxes.new_tensor([width, height, width, height])
                found[int(number)] = (boxes / sides).clamp(0, 1).double().cpu().numpy()
        return VideoRegions.of(found)


def _named(name: str) -> Any:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights as Weights

    if "/" in name or name not in Weights.__members__:
        known = nearest(name, Weights.__members__)
        raise UserError(f"weights={name}: neither a file nor torchvision's weights; {known}")
    try:
        return Weights[name].get_state_dict(map_location="cpu", weights_only=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"weights={name}: they could not be fetched ({error}); copy the file here and give its path"
        ) from error
