"""The LightningDataModule of images with objects: COCO's, in shards or in folders as they are released."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nlnet.data.annotations.coco import EXPECTED, other_files
from nlnet.data.annotations.coco_categories import Categories, unified
from nlnet.data.annotations.coco_check import describe
from nlnet.data.annotations.coco_sides import mirrored
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.folder import FolderBatches
from nlnet.data.batches.images import ImageBatches, ImageSettings, object_area
from nlnet.data.media.images import check_formats
from nlnet.data.media.suffixes import READ_ALWAYS
from nlnet.data.modules.base import ShardDataModule
from nlnet.data.modules.fingerprint import Fingerprint, fingerprint, hashed_samples
from nlnet.data.prepare.folder import FolderSplit, is_plain, read_folder
from nlnet.data.shards.coco import read_truth
from nlnet.data.shards.find import folder_of, is_pattern, load_manifest
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.storage import is_remote
from nlnet.errors import UserError


class DetectionDataModule(ShardDataModule):
    """Images of a dataset's training and validation splits, with boxes and, as asked for, masks or keypoints.

    Args:
        shards: folder or URL prefix that holds the shards and their manifests; or a folder of COCO's own files, with
            annotations in it or in its `annotations`, and the images anywhere below it; or one as Roboflow exports it.
        dataset: the first word of the shards' names, `coco` in `coco-train-000000.tar`.
        train_split, val_split: the second word.
        masks: hand out masks.
        keypoints: hand out keypoints, and only those categories that have any.
        short_sides: the short side of a training image becomes one of these, at random.
        eval_short_side: that of a validation image; the last of `short_sides` for None.
        max_size: what the long side may have at most.
        flip: mirror half of the training images.
        flip_pairs: names of keypoints that change places then; those that the names tell for None, `[]` for none.
        image_formats: what else than JPEG and PNG is read in a folder: "bmp", "tiff", "webp".
        aspect_groups: batches of upright images, and batches of others: fewer pixels of padding.
        skip_empty: leave training images out that show no object of the categories.
        sigmas: the tolerances of the keypoints in OKS; for None what the dataset says, or COCO's own for its persons.
        batch_size: of one optimizer step: of all ranks and all accumulated parts together.
        shared: the settings of batches and of reading; see `ShardDataModule`.
    """

    def __init__(
        self,
        shards: str,
        dataset: str = "coco",
        train_split: str = "train",
        val_split: str = "val",
        *,
        masks: bool = True,
        keypoints: bool = False,
        short_sides: Sequence[int] = (800,),
        eval_short_side: int | None = None,
        max_size: int = 1333,
        flip: bool = True,
        flip_pairs: Sequence[Sequence[str]] | None = None,
        image_formats: Sequence[str] = READ_ALWAYS,
        aspect_groups: bool = True,
        skip_empty: bool = True,
        sigmas: Sequence[float] | None = None,
        batch_size: int = 16,
        **shared: Any,
    ) -> None:
        super().__init__(folder_of(str(shards)), batch_size=batch_size, **shared)
        sides = check_sides(short_sides, eval_short_side, max_size)
        self.short_sides, self.eval_short_side, self.max_size = sides[:-1], sides[-1], max_size
        self.flip, self.masks, self.keypoints, self.aspect_groups = flip, masks, keypoints, aspect_groups
        self.formats = check_formats(image_formats, "data.image_formats")
        self._files: list[FolderSplit] = []  # of training and of validation, where they are not in shards
        if not isinstance(train_split, str):
            raise UserError(f"data.train_split={list(train_split)}: images are trained on from one split; name one")
        self.train, self.val = self._find(dataset, train_split, val_split)
        rows, problems = unified({m.split: m.details["categories"] for m in (self.train, self.val)})
        if problems:
            first, *further = describe(problems)
            raise UserError(f"{self.shards}: {first}", *further, "the splits must have the same categories")
        self.all_categories = Categories(tuple(rows))
        self.categories = Categories.of(self.all_categories.rows, with_keypoints=keypoints, where=self.shards)
        self.classes = self.categories.names  # the name of label k + 1
        self.sigmas = self.categories.sigmas(sigmas) if keypoints else ()
        self.mirrored = self._mirrored(flip_pairs) if keypoints and flip else ()
        told = [line for split in (0, 1) for line in self._told(split).get("remarks") or ()]
        self.remarks = [line for line in told if isinstance(line, str)]
        self._check_parts()
        if skip_empty:
            self.train = self._without_empty(self.train)
        self.check_fills_a_batch(len(self.train.samples), "images")
        self.train_keys, self.val_keys = self.train.columns.keys, self.val.columns.keys

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The dataset's id of label k + 1."""
        return self.categories.ids

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        return self.categories.keypoint_names if self.keypoints else ()

    @property
    def num_keypoints(self) -> int:
        return len(self.keypoint_names)

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """The limbs, as pairs of indices into `keypoint_names`."""
        return self.categories.skeleton if self.keypoints else ()

    def ground_truth(self) -> dict[str, Any]:
        """The validation split as COCO's dictionary, of the categories in use; what the evaluation needs is filled in.

        Raises UserError where it cannot be read.
        """
        content = (
            self._files[1].ground_truth() if self._files else read_truth(self.val, self.shards, self.settings.timeout_s)
        )
        rows = [row for row in content["annotations"] if row["category_id"] in self.categories.label_of]
        annotations = [filled_in(row, self.num_keypoints) for row in rows]
        return {**content, "annotations": annotations, "categories": list(self.categories.rows), "info": {}}

    def fingerprint(self) -> Fingerprint:
        notes = [files.notes for files in self._files] or [{}, {}]
        train, val = (hashed_samples(m, rows) for m, rows in zip((self.train, self.val), notes, strict=True))
        return fingerprint(self.classes, self.groups, train, val)

    def digest(self) -> str:
        return "" if self._files else super().digest()  # the notes beside a folder's manifest belong to it

    def batches(self, rank_slice: RankSlice, *, train: bool) -> ImageBatches:
        make: Callable[..., ImageBatches] = ImageBatches
        if self._files:
            make = partial(FolderBatches, self._files[0 if train else 1])
        return make(
            self.train if train else self.val,
            self.shards,
            self.view(train=train),
            self.categories,
            self.all_categories,
            rank_slice,
            self.seed,
            self.window,
            group=self.aspect_groups,
            settings=self.settings,
        )

    def view(self, *, train: bool) -> ImageSettings:
        """How images are handed out in training, and in evaluation."""
        sides = self.short_sides if train else (self.eval_short_side,)
        flip, formats = self.flip, self.formats
        return ImageSettings(sides, self.max_size, flip, train, self.masks, self.keypoints, self.mirrored, formats)

    def _find(self, dataset: str, *splits: str) -> list[Manifest]:
        if is_pattern(self.shards):
            raise UserError(f"data.shards={self.shards}: images need prepared shards, a folder or a URL prefix of them")
        if is_plain(self.shards):
            self._files = read_folder(Path(self.shards), dataset, splits, self.formats)
            return [files.manifest for files in self._files]
        folder = Path(self.shards)
        shards = folder.is_dir() and [*folder.glob("*.tar"), *folder.glob("*-manifest.json")]
        if shards == [] and not is_remote(self.shards):
            found = f"neither shards nor COCO's own files: {EXPECTED}{other_files(folder)}"
            raise UserError(f"data.shards={self.shards}: the folder holds {found}")
        manifests = [load_manifest(self.shards, dataset, split, self.settings) for split in splits]
        for manifest in manifests:
            if manifest.task != "detection":
                raise UserError(f"data.shards={self.shards}: shards for {manifest.task} classification hold no objects")
        return manifests

    def _mirrored(self, pairs: Sequence[Sequence[str]] | None) -> tuple[int, ...]:
        return mirrored(self.categories.keypoint_names, pairs, self.shards)

    def _told(self, split: int) -> Mapping[str, Any]:
        """What is known of the objects of training (0) and of validation: see `nlnet.data.shards.coco.write_truth`."""
        if self._files:
            found = self._files[split].plausible
            return {**found._asdict(), "remarks": self._files[split].remarks}
        told = (self.train, self.val)[split].details.get("annotations", {})
        return told if isinstance(told, dict) else {}

    def _check_parts(self) -> None:
        """Raises UserError where no object has what is asked for."""
        for split, manifest in enumerate((self.train, self.val)):
            told = self._told(split)
            if not told.get("objects", 1):
                raise UserError(f"{self.shards}: no object in the split {manifest.split}; training needs some in both")
            if self.masks and not told.get("masks", 1):
                raise UserError(
                    f"{self.shards}: no object of the split {manifest.split} has a mask (segmentation), and"
                    " data.masks=true; train on boxes with model=faster_rcnn data.masks=false"
                )
            if self.keypoints and not told.get("keypoints", 1):
                raise UserError(
                    f"{self.shards}: no object of the split {manifest.split} has a labeled keypoint, and"
                    " data.keypoints=true; train on boxes and masks with experiment=coco_mask data.keypoints=false"
                )

    def _without_empty(self, manifest: Manifest) -> Manifest:
        """The same shards, with only those images listed that show one of the classes."""
        wanted = {k for k, row in enumerate(self.all_categories.rows) if row["id"] in self.category_ids}
        shown = [sample for sample in manifest.samples if wanted & {index for index, _, _ in sample.labels}]
        if not shown:
            raise UserError(
                f"{self.shards}: none of the {len(manifest.samples):,} images of the split {manifest.split} shows an"
                f" object of {', '.join(self.classes[:5])}; they are left out of training (data.skip_empty=true)"
            )
        return replace(manifest, samples=shown)


def filled_in(row: dict[str, Any], num_keypoints: int) -> dict[str, Any]:
    """An annotation with its area, `iscrowd`, and where there are keypoints those and how many are labeled."""
    full = row | {"area": object_area(row), "iscrowd": int(row.get("iscrowd", 0))}
    if num_keypoints:
        points = row.get("keypoints") or [0] * (3 * num_keypoints)
        full |= {"keypoints": points, "num_keypoints": sum(visibility > 0 for visibility in points[2::3])}
    return full


def check_sides(short_sides: Sequence[int], eval_short_side: int | None, max_size: int) -> tuple[int, ...]:
    """The sizes in training and then the one in evaluation, if they can be."""
    sides = (*map(int, short_sides), int(eval_short_side or (short_sides or [0])[-1]))
    if not short_sides or min(sides) < 16 or max(sides) > max_size:
        raise UserError(
            f"data.short_sides={list(short_sides)}, data.eval_short_side={eval_short_side},"
            f" data.max_size={max_size}: needs short sides from 16 to the maximum"
        )
    return sides
