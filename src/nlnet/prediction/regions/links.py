"""A picture of the regions of a clip and of what links them."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from nlnet.models.graphs.boxes import is_box
from nlnet.models.graphs.network import Attention
from nlnet.prediction.drawing import COLORS

_SIDE, _GAP, _ROW = 256, 6, 8  # pixels of a frame and between frames, frames of a row
_BOXES, _LINKS = 6, 20  # that are drawn: of a frame, of the clip
_SHARE = 0.1  # of the strongest link: the least that is said
_WEAKEST = 0.25  # link of the front graph that is drawn

Node = tuple[int, int]
"""A frame, and a box of it."""


def strongest_links(links: Attention, most: int = _LINKS) -> list[tuple[Node, Node, float]]:
    """The greatest values of G_sim from a region to one of another frame, greatest first; none without that graph.

    Those of less than a tenth of the greatest are left out.
    """
    if links.similarity is None:
        return []
    boxes = links.boxes[0]
    there, (frames, count) = is_box(boxes).flatten().cpu().numpy(), boxes.shape[:2]
    values = links.similarity[0].float().cpu().numpy().copy()
    frame = np.arange(frames * count) // count
    values[~there] = 0
    values[frame[:, None] == frame[None]] = 0
    order = np.argsort(-values, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, values.shape), strict=True)
    found = [(divmod(int(i), count), divmod(int(j), count), float(values[i, j])) for i, j in pairs]
    return [link for link in found if link[2] > _SHARE * found[0][2]]


def neighbor_links(graph: Tensor | None) -> list[tuple[Node, Node, float]]:
    """The links of a front graph (1, T - 1, N, N) of at least a quarter of a region's own."""
    if graph is None:
        return []
    values = graph[0].float().cpu().numpy()
    return [
        ((int(t), int(i)), (int(t) + 1, int(j)), float(values[t, i, j])) for t, i, j in np.argwhere(values >= _WEAKEST)
    ]


def picture(frames_RHWC: np.ndarray, links: Attention) -> np.ndarray:
    """The frames (R, H, W, 3) uint8 beside each other, with the most attended boxes of each: (height, width, 3).

    Thin lines join boxes that overlap in neighboring frames (the front graph), bright ones the pairs of the similarity
    graph that count most.
    """
    columns = min(len(frames_RHWC), _ROW)
    rows = -(-len(frames_RHWC) // columns)
    size = (columns * (_SIDE + _GAP) - _GAP, rows * (_SIDE + _GAP) - _GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    for k, frame in enumerate(frames_RHWC):
        sheet.paste(Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), _corner(k, columns))
    pen = ImageDraw.Draw(sheet)
    boxes = links.boxes[0].float().cpu().numpy()
    drawn = _drawn(links)
    for one, other, _ in neighbor_links(links.front):
        if {one, other} <= drawn and one[0] // columns == other[0] // columns:
            pen.line([*_center(boxes, one, columns), *_center(boxes, other, columns)], fill=(200, 200, 200), width=2)
    for one, other, _ in strongest_links(links):
        color = COLORS[one[0] % len(COLORS)]
        pen.line([*_center(boxes, one, columns), *_center(boxes, other, columns)], fill=color, width=3)
    for frame_box in sorted(drawn):
        left, top = _corner(frame_box[0], columns)
        box = boxes[frame_box] * _SIDE + [left, top, left, top]
        pen.rectangle(list(map(float, box)), outline=COLORS[frame_box[0] % len(COLORS)], width=2)
    return np.array(sheet)


def _drawn(links: Attention) -> set[Node]:
    """The boxes of each frame that all regions attend to most, and those that a strong link joins."""
    boxes = links.boxes[0]
    there = is_box(boxes).cpu().numpy()
    weight = there.astype(np.float64)
    if links.similarity is not None:
        weight *= links.similarity[0].float().mean(0).reshape(there.shape).cpu().numpy()
    order = np.argsort(-weight, axis=1, kind="stable")[:, :_BOXES]
    chosen = {(t, int(k)) for t in range(len(order)) for k in order[t] if there[t, k]}
    return chosen | {node for one, other, _ in strongest_links(links) for node in (one, other)}


def _corner(frame: int, columns: int) -> tuple[int, int]:
    return frame % columns * (_SIDE + _GAP), frame // columns * (_SIDE + _GAP)


def _center(boxes: Any, node: Node, columns: int) -> tuple[float, float]:
    left, top = _corner(node[0], columns)
    x1, y1, x2, y2 = boxes[node]
    return left + (x1 + x2) / 2 * _SIDE, top + (y1 + y2) / 2 * _SIDE
