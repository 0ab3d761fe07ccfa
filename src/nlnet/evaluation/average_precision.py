"""Non-interpolated average precision, and the Charades mAP over it."""

import torch
from torch import Tensor


def average_precision(scores_N: Tensor, positives_N: Tensor) -> Tensor:
    """AP = sum_k (R_k - R_{k-1}) P_k over the distinct scores from high to low; nan without positives.

    Precision P_k and recall R_k are taken where the k-th distinct score has been passed, so equal scores count as one
    threshold and the value does not depend on the order of the samples. No interpolation.
    """
    positives_N = positives_N.double()
    order = torch.argsort(scores_N, descending=True, stable=True)
    scores_N, positives_N = scores_N[order], positives_N[order]
    total = positives_N.sum()
    if total == 0:
        return torch.tensor(float("nan"), dtype=torch.float64)
    last_of_score = torch.ones(len(scores_N), dtype=torch.bool, device=scores_N.device)
    last_of_score[:-1] = scores_N[1:] != scores_N[:-1]
    hits = positives_N.cumsum(0)[last_of_score]
    seen = torch.arange(1, len(scores_N) + 1, device=scores_N.device)[last_of_score]
    new_hits = torch.diff(hits, prepend=hits.new_zeros(1))
    return (new_hits * hits / seen).sum() / total


def class_average_precisions(scores_NK: Tensor, targets_NK: Tensor) -> Tensor:
    """(K,) average precision of each class, nan where no sample has it."""
    return torch.stack([average_precision(scores_NK[:, k], targets_NK[:, k]) for k in range(scores_NK.shape[1])])


def charades_map(scores_NK: Tensor, targets_NK: Tensor) -> Tensor:
    """The mean of the classes' average precisions over the classes that have at least one positive.

    Videos without any action stay in as negatives of every class. (A macro mean that counts an absent class as 0
    would lower the metric by the fraction of absent classes.)
    """
    return class_average_precisions(scores_NK, targets_NK).nanmean()
