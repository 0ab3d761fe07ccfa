"""How far, how widely and how differently the positions of a block look, in numbers."""

from dataclasses import asdict, dataclass

import numpy as np

from nlnet.attention.maps import BlockMap
from nlnet.attention.places import key_places, position_places


@dataclass(frozen=True)
class Measures:
    """Means over the stored positions i of a block, with the weights a_ij = |f_ij| / sum_j |f_ij|.

    For the softmax functions a is the attention itself; the dot product's values have signs, which are left out.
    """

    distance_space: float
    """sum_j a_ij times the distance of i and j within the frame, in sides of the frame (0 to sqrt(2))."""
    distance_time: float
    """sum_j a_ij times how far apart i and j are in time, in parts of the clip (0 to 1)."""
    same_frame: float
    """sum of a_ij over the keys j of i's own frame."""
    entropy: float
    """-sum_j a_ij log a_ij / log M: 0 for a single key, 1 for all alike."""
    query_dependence: float
    """The mean over all pairs i, k of (1 - cos(a_i, a_k)) / 2: 0 where every position looks at the same, as found by
    GCNet (Cao et al. 2019, Table 1); where positions meet different keys (frames, groups, locations), of those keys."""

    def as_dict(self) -> dict[str, float]:
        """By name, rounded to what is meant."""
        return {name: round(float(value), 6) for name, value in asdict(self).items()}


def measure(block: BlockMap) -> Measures:
    """The measures of a block's map."""
    places = position_places(block)
    frames = block.size[0]
    totals = np.zeros(4)
    directions = np.zeros(block.rows.shape[1])
    for number, place in enumerate(places):
        a = weights(block.row(number))
        keys = key_places(block, number)
        apart = np.abs(keys - place)
        own = np.floor(keys[:, 0] * frames) == np.floor(place[0] * frames)
        spread = -(a[a > 0] * np.log(a[a > 0])).sum() / np.log(len(a)) if len(a) > 1 else 0.0
        totals += [(a * np.hypot(apart[:, 1], apart[:, 2])).sum(), (a * apart[:, 0]).sum(), a[own].sum(), spread]
        directions += a / np.linalg.norm(a)
    # The mean of cos(a_i, a_k) over all pairs is the squared length of the mean direction.
    alike = float(((directions / len(places)) ** 2).sum())
    space, time, same, entropy = totals / len(places)
    return Measures(space, time, same, entropy, max(0.0, (1 - alike) / 2))


def weights(row: np.ndarray) -> np.ndarray:
    """|f| over its sum, float64; alike where all of it is zero."""
    size = np.abs(row.astype(np.float64))
    total = size.sum()
    return size / total if total > 0 else np.full(len(size), 1 / len(size))
