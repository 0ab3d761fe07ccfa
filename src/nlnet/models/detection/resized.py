"""Calls of a torchvision detector with images that were resized on the way to it, as by a loader."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

Targets = Sequence[Mapping[str, Any]]


def losses(net: GeneralizedRCNN, images: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
    """The losses of `net`, in training mode, for images (3, H, W) in 0 to 1 and targets in their pixels.

    Raises ValueError for a box without a width or a height.
    """
    for target in targets:
        boxes = target["boxes"]
        if (boxes[:, 2:] <= boxes[:, :2]).any():
            raise ValueError(f"boxes (x1, y1, x2, y2) need a positive width and height: {boxes.tolist()}")
    batch, features = _maps(net, images)
    proposals, of_proposals = net.rpn(batch, features, targets)
    _, of_heads = net.roi_heads(features, proposals, batch.image_sizes, targets)
    return {**of_heads, **of_proposals}


def detect(net: GeneralizedRCNN, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
    """What `net`, in evaluation mode, finds in `images` (3, H, W) in 0 to 1, in pixels of the originals.

    These are of `sizes` (H, W). A mask is pasted once, at its final size.
    """
    batch, features = _maps(net, images)
    proposals, _ = net.rpn(batch, features)
    detections, _ = net.roi_heads(features, proposals, batch.image_sizes)
    return net.transform.postprocess(detections, batch.image_sizes, list(sizes))


def scorers(net: GeneralizedRCNN) -> list[nn.Module]:
    """The modules whose outputs are scores, before those are sorted and filtered: NaN does not get past that."""
    heads: Any = net.roi_heads
    predictors = [heads.box_predictor]
    predictors += [heads.mask_predictor] if heads.has_mask() else []
    predictors += [heads.keypoint_predictor] if heads.has_keypoint() else []
    return [net.rpn.head, *predictors]


def _maps(net: GeneralizedRCNN, images: Sequence[Tensor]) -> tuple[ImageList, Mapping[str, Tensor]]:
    """The images, normalized and padded as by the network's own transform without its resizing, and their features."""
    transform = net.transform
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    normalized = [transform.normalize(image) for image in images]
    batch = ImageList(transform.batch_images(normalized, size_divisible=transform.size_divisible), sizes)
    features = net.backbone(batch.tensors)
    return batch, {"0": features} if isinstance(features, Tensor) else features
