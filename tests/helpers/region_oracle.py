"""Region graphs in plain Python and float64: boxes drawn in every awkward arrangement, and the graphs as loops."""

import math

import numpy as np

KINDS = ("random", "none", "one", "identical", "touching", "empty frames", "nested")


def draw_boxes(kind: str, rng: np.random.Generator, frames: int, count: int) -> np.ndarray:
    """(T, N, 4), left, top, right, bottom from 0 to 1; a box of zeros is none."""
    low = rng.uniform(0, 0.7, (frames, count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, (frames, count, 2))], 2)
    if kind == "none":
        boxes[:] = 0
    elif kind == "one":
        boxes[:, 1:] = 0
    elif kind == "identical":
        boxes[:] = boxes[0, 0]
    elif kind == "touching":  # side by side: what they share has no area
        for k in range(count):
            boxes[:, k] = k / count, 0.25, (k + 1) / count, 0.5
    elif kind == "empty frames":
        boxes[rng.uniform(size=frames) < 0.5] = 0
        boxes[rng.uniform(size=(frames, count)) < 0.3] = 0
    elif kind == "nested":
        boxes[:, 1:, :2], boxes[:, 1:, 2:] = boxes[:, :1, :2] + 0.01, boxes[:, :1, 2:] - 0.01
    return boxes


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / either if shared > 0 else 0.0


def neighbors(boxes: np.ndarray, step: int) -> np.ndarray:
    """The front graph for step 1, the back graph for -1: (T - 1, N, N)."""
    frames, count = boxes.shape[:2]
    graph = np.zeros((frames - 1, count, count))
    for t in range(frames - 1):
        here, there = (boxes[t], boxes[t + 1]) if step == 1 else (boxes[t + 1], boxes[t])
        for i in range(count):
            row = [iou(here[i], there[j]) for j in range(count)]
            if sum(row) > 0:
                graph[t, i] = [value / sum(row) for value in row]
    return graph


def similarity(x_MD: np.ndarray, exists_M: np.ndarray, theta_DD: np.ndarray, phi_DD: np.ndarray) -> np.ndarray:
    """softmax_j((theta x_i) . (phi x_j)) over the nodes that exist."""
    count = len(x_MD)
    graph = np.zeros((count, count))
    for i in range(count):
        logits = [float(theta_DD @ x_MD[i] @ (phi_DD @ x_MD[j])) for j in range(count)]
        most = max((logits[j] for j in range(count) if exists_M[j]), default=0.0)
        row = [math.exp(logits[j] - most) if exists_M[j] else 0.0 for j in range(count)]
        graph[i] = np.array(row) / sum(row)
    return graph


def normed(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """ReLU(layer norm(x)) over the last axis."""
    centered = x - x.mean(-1, keepdims=True)
    return np.maximum(centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * weight + bias, 0)
