"""The categories of a COCO data set, and the labels, keypoints and tolerances that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nlnet.data.annotations.coco_check import Problem, limbs
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
            raise UserError(
                f"{where}: no category names keypoints, which data.keypoints=true and a keypoint_rcnn need; read"
                " person_keypoints_*.json, or train on boxes and masks with experiment=coco_mask data.keypoints=false"
            )
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
        """Pairs of indices into `keypoint_names`, counted from 0; empty where it is none, for it is only drawn."""
        return tuple(next((limbs(row) or () for row in self.rows if row.get("keypoints")), ()))

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


def unified(splits: Mapping[str, Sequence[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The categories of all splits as one list in the order of the first, and what contradicts.

    The same category has the same id and name, and keypoints where more than one split lists them. In what order they
    stand, which of them a split leaves out, and further fields are its own business.
    """
    rows: dict[int, dict[str, Any]] = {}
    names: dict[str, tuple[int, str]] = {}
    problems = []
    for split, listed in splits.items():
        for row in listed:
            known, (first_id, first) = rows.get(row["id"]), names.get(row["name"], (row["id"], split))
            if known is not None and known["name"] != row["name"]:
                detail = f"is {known['name']!r} before, and {row['name']!r} in {split}"
                problems.append(Problem(f"category {row['id']}", "other categories", detail))
            elif known is None and first_id != row["id"] and first != split:
                detail = f"has the id {first_id} in {first}, and {row['id']} in {split}"
                problems.append(Problem(f"category {row['name']!r}", "other categories", detail))
            elif known and known.get("keypoints") and row.get("keypoints") not in (None, [], known["keypoints"]):
                problems.append(Problem(f"category {row['id']}", "other categories", f"has other keypoints in {split}"))
            rows[row["id"]] = {**row, **{k: v for k, v in (known or {}).items() if v or k not in row}}
            names.setdefault(row["name"], (row["id"], split))
    return list(rows.values()), problems
