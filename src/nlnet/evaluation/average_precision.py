"""Non-interpolated average precision, and the Charades mAP over it."""

import torch
from torch import Tensor

CHARADES_RULE = (
    "as the official program of Charades has it: videos without any label are left out, equal scores rank in the order"
    " of the videos, classes without a positive are left out of the mean; all_videos_mAP has every video, and equal"
    " scores as one threshold"
)
"""What `mAP` is, for a record of figures."""


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
    """(K,) average precision of each class over all videos, nan where no video has it."""
    return torch.stack([average_precision(scores_NK[:, k], targets_NK[:, k]) for k in range(scores_NK.shape[1])])


def charades_average_precisions(scores_NK: Tensor, targets_NK: Tensor) -> Tensor:
    """(K,) AP_k = mean over the positives i of class k of P_k(r_i), nan where there is none, as in `charades_map`.

    r_i is the rank of video i among the videos with a label, by its score of class k from high to low, equal scores in
    the order of the videos; P_k(r) the fraction of positives among the first r.
    """
    labeled = (targets_NK != 0).any(1)
    scores_NK, targets_NK = scores_NK[labeled], targets_NK[labeled]
    order_NK = torch.argsort(scores_NK, dim=0, descending=True, stable=True)
    ranked_NK = (targets_NK.gather(0, order_NK) != 0).double()
    ranks_N1 = torch.arange(1, len(ranked_NK) + 1, device=ranked_NK.device)[:, None]
    return (ranked_NK * ranked_NK.cumsum(0) / ranks_N1).sum(0) / ranked_NK.sum(0)


def charades_map(scores_NK: Tensor, targets_NK: Tensor) -> Tensor:
    """The mAP that the official program of Charades reports (Charades_v1_classify, its data set's release of 2016).

    It scores a video without any label minus infinity, so that it comes after all others and counts nowhere. Ties: as
    the ranking by a stable sort has them, in the order of the videos. The mean is over the classes with a positive,
    which in Charades are all; counting an absent one as 0 would lower it by their fraction.
    """
    return charades_average_precisions(scores_NK, targets_NK).nanmean()


def all_videos_map(scores_NK: Tensor, targets_NK: Tensor) -> Tensor:
    """The mean of `class_average_precisions` over the classes with a positive.

    Unlike in `charades_map` videos without any label stay in as negatives of every class, and the order of the videos
    is without effect.
    """
    return class_average_precisions(scores_NK, targets_NK).nanmean()
