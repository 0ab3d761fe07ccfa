"""The matrix of counts and what is made of it, against NumPy."""

import numpy as np
import torch

from nlnet.evaluation.confusion import class_accuracies, class_ious, confusion, segmentation_metrics


def by_numpy(targets: np.ndarray, found: np.ndarray, count: int) -> tuple[np.ndarray, dict[str, float]]:
    """Pixel by pixel, and the metrics from sets of pixels."""
    matrix = np.zeros((count, count), np.int64)
    for i, j in zip(targets.ravel().tolist(), found.ravel().tolist(), strict=True):
        if i < count:
            matrix[i, j] += 1
    there = targets < count
    ious, accuracies = [], []
    for k in range(count):
        is_k, taken = (targets == k) & there, (found == k) & there
        if (is_k | taken).any():
            ious.append((is_k & taken).sum() / (is_k | taken).sum())
        if is_k.any():
            accuracies.append((is_k & taken).sum() / is_k.sum())
    right = ((targets == found) & there).sum() / there.sum()
    return matrix, {"mIoU": float(np.mean(ious)), "mAcc": float(np.mean(accuracies)), "pixel_accuracy": float(right)}


def test_it_is_what_numpy_counts() -> None:
    rng = np.random.default_rng(0)
    for case in range(50):
        count = int(rng.integers(2, 9))
        targets = rng.choice([*range(count - case % 2), 255], (5, 7, 9)).astype(np.uint8)  # at times without a class
        found = rng.integers(0, count - (case % 3 == 0), (5, 7, 9)).astype(np.uint8)
        matrix, metrics = by_numpy(targets, found, count)
        ours = confusion(torch.from_numpy(targets), torch.from_numpy(found), count)
        assert np.array_equal(ours.numpy(), matrix)
        got = segmentation_metrics(ours)
        assert all(abs(got[name] - value) < 1e-12 for name, value in metrics.items())
        halves = [confusion(torch.from_numpy(t), torch.from_numpy(f), count)
                  for t, f in ((targets[:2], found[:2]), (targets[2:], found[2:]))]  # fmt: skip
        assert torch.equal(halves[0] + halves[1], ours)


def test_a_class_that_nobody_sees_has_no_figure() -> None:
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert class_ious(matrix).nan_to_num(-1).tolist() == [0.75, 0.0, -1]
    assert class_accuracies(matrix).nan_to_num(-1).tolist() == [0.75, -1, -1]
