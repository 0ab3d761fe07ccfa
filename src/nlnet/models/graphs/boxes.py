"""Boxes of the frames of a clip, and the space-time graphs that follow from how they overlap.

Shapes: B clips, T frames, N boxes of a frame. A box is left, top, right, bottom as fractions of the clip's sides.
A box without area is no box: it fills up the N of its frame, and takes part in nothing.
"""

import torch
from torch import Tensor


def is_box(boxes: Tensor) -> Tensor:
    """Which of (..., 4) have an area: (...)."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def with_whole_frames(boxes_BTN4: Tensor) -> Tensor:
    """The same boxes; a frame without one gets the whole frame as its first."""
    empty = ~is_box(boxes_BTN4).any(2, keepdim=True)
    first = torch.arange(boxes_BTN4.shape[2], device=boxes_BTN4.device) == 0
    whole = boxes_BTN4.new_tensor([0.0, 0.0, 1.0, 1.0])
    return torch.where((empty & first).unsqueeze(-1), whole, boxes_BTN4)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU = |a and b| / |a or b| of every box with every other, 0 where one of them is none.

    Shapes: (..., N, 4), (..., M, 4) -> (..., N, M).
    """
    a, b = boxes.unsqueeze(-2), others.unsqueeze(-3)
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    areas = _areas(a) + _areas(b)
    both = is_box(a) & is_box(b)
    return torch.where(both, shared / (areas - shared).clamp(min=torch.finfo(areas.dtype).tiny), 0.0)


def front_graph(boxes_BTN4: Tensor) -> Tensor:
    """G_front[t, i, j] = IoU(box i of frame t, box j of frame t + 1), rows divided by their sums (section 3.2).

    A row without overlap stays zero. Shapes: (B, T, N, 4) -> (B, T - 1, N, N).
    """
    return _rows_to_one(overlaps(boxes_BTN4[:, :-1], boxes_BTN4[:, 1:]))


def back_graph(boxes_BTN4: Tensor) -> Tensor:
    """G_back[t, i, j] = IoU(box i of frame t + 1, box j of frame t), rows divided by their sums (section 3.2).

    A row without overlap stays zero. Shapes: (B, T, N, 4) -> (B, T - 1, N, N).
    """
    return _rows_to_one(overlaps(boxes_BTN4[:, 1:], boxes_BTN4[:, :-1]))


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _rows_to_one(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
