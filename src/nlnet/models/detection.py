"""Mask R-CNN and Keypoint R-CNN with a feature pyramid and non-local blocks (section 5.3 of the paper)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from nlnet.errors import UserError, nearest
from nlnet.models.detection_backbones import STAGES, build_backbone
from nlnet.models.global_context import insert_global_context
from nlnet.models.insertion import insert_nonlocal
from nlnet.models.placement import NonlocalBlocks, place, presets

DETECTORS = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN, "keypoint_rcnn": KeypointRCNN}
_HEAD_CONVOLUTIONS = 8  # of the keypoint head, each followed by a ReLU


def build_detector(
    name: str,
    backbone: str = "r50",
    *,
    num_classes: int,
    num_keypoints: int = 17,
    nonlocal_blocks: NonlocalBlocks = 0,
    head_blocks: int = 0,
    pairwise: str = "embedded_gaussian",
    subsample: bool = True,
    nonlocal_options: Mapping[str, Any] | None = None,
    context_stages: Sequence[str] = (),
    context_ratio: float = 1 / 16,
    norm: str = "frozen",
    trainable_stages: int = 3,
    frozen_eps: float = 1e-5,
    min_size: int = 800,
    max_size: int = 1333,
) -> GeneralizedRCNN:
    """torchvision's detector of that kind and backbone, with blocks; a new one computes what it would without them.

    It is called as torchvision's: images (3, H, W) in 0 to 1 -> detections, or losses in training. State-dict keys are
    torchvision's, and those of the blocks besides.

    Args:
        name: "faster_rcnn", "mask_rcnn" or "keypoint_rcnn".
        backbone: "r50", "r101", "x152" (ResNeXt-152 32x8d), or "demo", for images of 128 x 128, with
            0.6 to 0.8 M parameters in all.
        num_classes: kinds of things, the background not counted: 80 for COCO; torchvision's COCO files have 90.
        num_keypoints: of a `keypoint_rcnn`.
        nonlocal_blocks: 1 for one right before the last residual block of res4 (Table 5); or any placement of
            `nlnet.models.placement`.
        head_blocks: 4 for one after every second of the eight convolutions of the keypoint head (Table 6), or 0.
        pairwise, subsample: of the blocks.
        nonlocal_options: further options of `NonLocalBlock`; those that are None stand as they are. The norm is "none"
            unless given, so that a block has no statistics to estimate from two images: its last convolution starts at
            zero. The paper does not say what it used.
        context_stages: stages whose bottlenecks get a global context block each (GCNet: res3, res4, res5).
        context_ratio: the width of their bottleneck.
        norm, trainable_stages, frozen_eps: see `build_backbone`. torchvision's own COCO_V1 files want `frozen_eps` 0.
        min_size, max_size: what the shorter and the longer side are resized to, at most.

    Raises UserError for an unknown name or placement, or blocks that have no place in the network.
    """
    if name not in DETECTORS:
        raise UserError(f"model.name={name}: there is no such detector; {nearest(name, DETECTORS)}")
    kind = name.removesuffix("_rcnn")
    pyramid = build_backbone(backbone, norm, trainable_stages, frozen_eps)
    options = _demo_parts(kind, pyramid.out_channels, num_classes, num_keypoints) if backbone == "demo" else {}
    if not options:
        options = {"num_classes": num_classes + 1} | ({"num_keypoints": num_keypoints} if kind == "keypoint" else {})
    net: GeneralizedRCNN = DETECTORS[name](pyramid, min_size=min_size, max_size=max_size, **options)
    net.transform = ImageTransform(min_size, max_size, net.transform.image_mean, net.transform.image_std)
    net.title = f"{kind.capitalize()} R-CNN {backbone if backbone == 'demo' else backbone.upper()}-FPN"
    blocks = {"pairwise": pairwise, "subsample": subsample, "norm": "none", "dims": 2}
    blocks |= {key: value for key, value in (nonlocal_options or {}).items() if value is not None}
    _insert_in_backbone(net, nonlocal_blocks, blocks)
    _insert_in_head(net, kind, head_blocks, blocks)
    if context_stages:
        insert_global_context([net.backbone.body[_stage(stage)] for stage in context_stages], context_ratio)
    heads = net.roi_heads
    for part in (net.rpn.head, heads.box_predictor, heads.mask_predictor, heads.keypoint_predictor):
        if part is not None:
            part.register_forward_hook(_in_full_precision)
    return net


class ImageTransform(GeneralizedRCNNTransform):
    """torchvision's normalisation, resizing and batching, but images can come `resized` already, as from a loader."""

    resized = False

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return (image, target) if self.resized else super().resize(image, target)


def detect(net: GeneralizedRCNN, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
    """What `net` finds in `images` (3, H, W) in 0 to 1, in pixels of images of `sizes` (H, W).

    For images that were resized on the way here: boxes, masks and keypoints are those of the original, and a mask is
    pasted once, at its final size.
    """
    batch, _ = net.transform(list(images))
    features = net.backbone(batch.tensors)
    proposals, _ = net.rpn(batch, features)
    detections, _ = net.roi_heads(features, proposals, batch.image_sizes)
    return net.transform.postprocess(detections, batch.image_sizes, list(sizes))


def _insert_in_backbone(net: GeneralizedRCNN, nonlocal_blocks: NonlocalBlocks, options: Mapping[str, Any]) -> None:
    """Blocks that follow a residual block are placed before the next one of its stage, as the paper says it."""
    body = net.backbone.body
    counts = {stage: len(body[_stage(stage)]) for stage in STAGES}
    for stage, after in place(nonlocal_blocks, counts, presets(counts)):
        blocks = body[_stage(stage)]
        position, side = (after + 1, "before") if after + 1 < len(blocks) else (after, "after")
        channels = getattr(blocks[-1], "conv3", blocks[-1].conv2).out_channels
        where = f"backbone.body.{_stage(stage)}.{position}"
        insert_nonlocal(net, {where: side}, channels=channels, **options)  # type: ignore[dict-item]


def _insert_in_head(net: GeneralizedRCNN, kind: str, head_blocks: int, options: Mapping[str, Any]) -> None:
    if not head_blocks:
        return
    if kind != "keypoint" or head_blocks != _HEAD_CONVOLUTIONS // 2:
        raise UserError(
            f"model.head_blocks={head_blocks}: give {_HEAD_CONVOLUTIONS // 2}, one after every second of the"
            f" {_HEAD_CONVOLUTIONS} convolutions of a keypoint_rcnn's head, or 0"
        )
    head = net.roi_heads.keypoint_head  # convolution, ReLU, convolution, ReLU, ...
    places = {f"roi_heads.keypoint_head.{4 * block + 3}": "after" for block in range(head_blocks)}
    insert_nonlocal(net, places, channels=head[0].out_channels, **options)  # type: ignore[arg-type]


def _stage(name: str) -> str:
    if name not in STAGES:
        raise UserError(f"model.context_stages: there is no stage {name!r}; {nearest(str(name), STAGES)}")
    return STAGES[name]


def _in_full_precision(module: nn.Module, args: Any, output: Any) -> Any:
    """Boxes are decoded in the type of the predictions, and half precision has pixels of 1 to 8 where images are 1333.

    Without autocast nothing changes.
    """
    if isinstance(output, Tensor):
        return output.float() if output.dtype.itemsize < 4 else output
    return type(output)(_in_full_precision(module, args, part) for part in output)


def _demo_parts(kind: str, channels: int, num_classes: int, num_keypoints: int) -> dict[str, Any]:
    """Small heads, anchors for images of 128 x 128, 64 proposals and 32 regions an image."""
    levels = ["0", "1", "2", "3"]
    parts = {
        "rpn_anchor_generator": AnchorGenerator(tuple((8 * 2**k,) for k in range(5)), ((0.5, 1.0, 2.0),) * 5),
        "rpn_pre_nms_top_n_train": 128,
        "rpn_pre_nms_top_n_test": 128,
        "rpn_post_nms_top_n_train": 64,
        "rpn_post_nms_top_n_test": 64,
        "rpn_batch_size_per_image": 64,
        "box_batch_size_per_image": 32,
        "box_detections_per_img": 20,
        "box_roi_pool": MultiScaleRoIAlign(levels, 5, 2),
        "box_head": TwoMLPHead(channels * 25, 128),
        "box_predictor": FastRCNNPredictor(128, num_classes + 1),
    }
    if kind == "mask":
        parts |= {
            "mask_roi_pool": MultiScaleRoIAlign(levels, 7, 2),
            "mask_head": MaskRCNNHeads(channels, (48, 48), 1),
            "mask_predictor": MaskRCNNPredictor(48, 48, num_classes + 1),
        }
    if kind == "keypoint":
        parts |= {
            "keypoint_roi_pool": MultiScaleRoIAlign(levels, 7, 2),
            "keypoint_head": KeypointRCNNHeads(channels, (48,) * _HEAD_CONVOLUTIONS),
            "keypoint_predictor": KeypointRCNNPredictor(48, num_keypoints),
        }
    return parts
