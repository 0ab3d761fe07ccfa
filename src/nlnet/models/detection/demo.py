"""The small heads of the demo's detectors."""

from typing import Any

from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

HEAD_CONVOLUTIONS = 8
"""Of a keypoint head, torchvision's or this one, each followed by a ReLU."""


def demo_parts(kind: str, channels: int, num_classes: int, num_keypoints: int) -> dict[str, Any]:
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
            "keypoint_head": KeypointRCNNHeads(channels, (48,) * HEAD_CONVOLUTIONS),
            "keypoint_predictor": KeypointRCNNPredictor(48, num_keypoints),
        }
    return parts
