"""Mask R-CNN and Keypoint R-CNN with a feature pyramid and non-local blocks (section 6 of the paper)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from nlnet.errors import UserError
from nlnet.models.detection.backbones import STAGES, build_backbone
from nlnet.models.detection.demo import HEAD_CONVOLUTIONS, demo_parts
from nlnet.models.detection.global_context import insert_global_context
from nlnet.models.insertion import insert_nonlocal
from nlnet.models.options import block_options, check_one_of, naming_nonlocal_options
from nlnet.models.placement import NonlocalBlocks, presets, resolve_placement

_NAMED_APART = {"channels", "dims", "pairwise", "subsample"}


class _Titled:
    """A detector that knows what people call it, such as "Mask R-CNN R50-FPN"."""

    def __init__(self, title: str, backbone: BackboneWithFPN, **options: Any) -> None:
        super().__init__(backbone, **options)  # type: ignore[call-arg]
        self.title = title


class TitledFasterRCNN(_Titled, FasterRCNN):
    """torchvision's, with a title."""


class TitledMaskRCNN(_Titled, MaskRCNN):
    """torchvision's, with a title."""


class TitledKeypointRCNN(_Titled, KeypointRCNN):
    """torchvision's, with a title."""


DETECTORS = {"faster_rcnn": TitledFasterRCNN, "mask_rcnn": TitledMaskRCNN, "keypoint_rcnn": TitledKeypointRCNN}


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

    It is called as torchvision's: images (3, H, W) in 0 to 1 -> detections, or losses in training; for images that come
    resized there are `nlnet.models.detection.resized.detect` and `losses`. State-dict keys are torchvision's, and those
    of the blocks besides.

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

    Raises UserError for an unknown name, option or placement, or blocks that the network has no host for.
    """
    check_one_of("model name", name, DETECTORS)
    for stage in context_stages:
        check_one_of("context_stages: stage", stage, STAGES)
    kind = name.removesuffix("_rcnn")
    pyramid = build_backbone(backbone, norm, trainable_stages, frozen_eps)
    parts = demo_parts(kind, pyramid.out_channels, num_classes, num_keypoints) if backbone == "demo" else {}
    if not parts:
        parts = {"num_classes": num_classes + 1} | ({"num_keypoints": num_keypoints} if kind == "keypoint" else {})
    title = f"{kind.capitalize()} R-CNN {backbone if backbone == 'demo' else backbone.upper()}-FPN"
    net: GeneralizedRCNN = DETECTORS[name](title, pyramid, min_size=min_size, max_size=max_size, **parts)
    options = {"pairwise": pairwise, "subsample": subsample, "norm": "none", "dims": 2}
    options |= block_options(nonlocal_options, _NAMED_APART)
    with naming_nonlocal_options():
        _insert_in_backbone(net, nonlocal_blocks, options)
        _insert_in_head(net, kind, head_blocks, options)
    if context_stages:
        insert_global_context([net.backbone.body[STAGES[stage]] for stage in context_stages], context_ratio)
    heads = net.roi_heads
    for part in (net.rpn.head, heads.box_predictor, heads.mask_predictor, heads.keypoint_predictor):
        if part is not None:
            part.register_forward_hook(_in_full_precision)
    return net


def _insert_in_backbone(net: GeneralizedRCNN, nonlocal_blocks: NonlocalBlocks, options: Mapping[str, Any]) -> None:
    """Blocks that follow a residual block go before the next one of its stage, as the paper says it."""
    body = net.backbone.body
    counts = {stage: len(body[name]) for stage, name in STAGES.items()}
    for stage, after in resolve_placement(nonlocal_blocks, counts, presets(counts)):
        blocks = body[STAGES[stage]]
        index, side = (after + 1, "before") if after + 1 < len(blocks) else (after, "after")
        channels = getattr(blocks[-1], "conv3", blocks[-1].conv2).out_channels
        host = f"backbone.body.{STAGES[stage]}.{index}"
        insert_nonlocal(net, {host: side}, channels=channels, **options)  # type: ignore[dict-item]


def _insert_in_head(net: GeneralizedRCNN, kind: str, head_blocks: int, options: Mapping[str, Any]) -> None:
    if not head_blocks:
        return
    if kind != "keypoint" or head_blocks != HEAD_CONVOLUTIONS // 2:
        raise UserError(
            f"head_blocks={head_blocks}: give {HEAD_CONVOLUTIONS // 2}, one after every second of the"
            f" {HEAD_CONVOLUTIONS} convolutions of a keypoint_rcnn's head, or 0"
        )
    head = net.roi_heads.keypoint_head  # convolution, ReLU, convolution, ReLU, ...
    positions = {f"roi_heads.keypoint_head.{4 * block + 3}": "after" for block in range(head_blocks)}
    insert_nonlocal(net, positions, channels=head[0].out_channels, **options)  # type: ignore[arg-type]


def _in_full_precision(module: nn.Module, args: Any, output: Any) -> Any:
    """Boxes are decoded in the type of the predictions, and half precision has pixels of 1 to 8 where images are 1333.

    Without autocast nothing changes.
    """
    if isinstance(output, Tensor):
        return output.float() if output.dtype.itemsize < 4 else output
    return type(output)(_in_full_precision(module, args, part) for part in output)
