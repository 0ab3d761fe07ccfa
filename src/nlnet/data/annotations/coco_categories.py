"""The categories of a COCO data set, and the labels, keypoints and tolerances that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nlnet.errors import UserError

# The standard deviation of each of COCO's person keypoints, in thousandths of the object's size (the OKS constants).
_PAIRS = {"eye": 25, "ear": 35, "shoulder": 79, "elbow": 72, "wrist": 62, "hip": 107, "knee": 87, "ankle": 89}
PERSON = ["nose", *(f"{side}_{part}" for part in _PAIRS for side in ("left", "right"))]
PERSON_SIGMAS = (0.026, *(thousandths / 1000 for thousandths in _PAIRS.values() for _ in range(2)))


@dataclass(frozen=True)
class Categories:
    """COCO's category records, in the order of the labels 1, 2, ...; 0 is the background.

    A category with keypoints lists their names in `keypoints` and the pairs that make a limb, counted from 1, in
    `skeleton`. As an addition to COCO's format it may list their tolerances in `sigmas`.
    """

    rows: tuple[dict[str, Any], ...]

    @staticmethod
    def of(rows: Sequence[dict[str, Any]], *, with_keypoints: bool, where: str) -> "Categories":
        """All categories, or those with keypoints. Raises UserError where there are none, or several skeletons."""
        kept = [row for row in rows if row.get("keypoints") or not with_keypoints]
        if with_keypoints and not kept:
            raise UserError(f"{where}: no category has keypoints; set data.keypoints=false")
        if with_keypoints and len({tuple(row["keypoints"]) for row in kept}) > 1:
            names = ", ".join(row["name"] for row in kept)
            raise UserError(f"{where}: the categories {names} have different keypoints; a network predicts one kind")
        return Categories(tuple(kept))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row["name"] for row in self.rows)

    @property
    def ids(self) -> tuple[int, ...]:
        """The category id of label k + 1."""
        return tuple(row["id"] for row in self.rows)

    @cached_property
    def label_of(self) -> dict[int, int]:
        """Category id -> label."""
        return {row["id"]: k for k, row in enumerate(self.rows, start=1)}

    @cached_property
    def keypoint_names(self) -> tuple[str, ...]:
        """Of the first category that has keypoints; empty if none has."""
        return tuple(next((row["keypoints"] for row in self.rows if row.get("keypoints")), ()))

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """Pairs of indices into `keypoint_names`, counted from 0."""
        pairs = next((row.get("skeleton", ()) for row in self.rows if row.get("keypoints")), ())
        return tuple((int(a) - 1, int(b) - 1) for a, b in pairs)

    def sigmas(self, chosen: Sequence[float] | None = None) -> tuple[float, ...]:
        """The tolerance of each keypoint in OKS: as chosen, or else as the data set says, or COCO's for its persons.

        Raises UserError where nobody says them, or not one for each.
        """
        names = self.keypoint_names
        told = next((row.get("sigmas") for row in self.rows if row.get("keypoints")), None)
        if told is None and list(names) == PERSON:
            told = PERSON_SIGMAS
        sigmas = told if chosen is None else chosen
        if sigmas is None:
            raise UserError(f"data.sigmas is not set, and the data set does not say them for {', '.join(names)}")
        if len(sigmas) != len(names) or not all(sigma > 0 for sigma in sigmas):
            raise UserError(f"data.sigmas={list(sigmas)}: needs {len(names)} positive numbers, for {', '.join(names)}")
        return tuple(map(float, sigmas))

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """Where each keypoint is found after mirroring: `left_...` and `right_...` change places."""
        index = {name: k for k, name in enumerate(self.keypoint_names)}
        return tuple(index.get(_other_side(name), k) for name, k in index.items())


def _other_side(name: str) -> str:
    left = name.replace("left", "right")
    return left if left != name else name.replace("right", "left")
