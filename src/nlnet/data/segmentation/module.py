"""The LightningDataModule of images with a class for every pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlnet.data.batches.base import RankSlice
from nlnet.data.modules.base import ShardDataModule
from nlnet.data.segmentation.batches import SegmentationBatches
from nlnet.data.segmentation.check import check_pairs
from nlnet.data.segmentation.crops import CropSettings
from nlnet.data.segmentation.layouts import Pair, find_layout, find_pairs
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.storage import is_remote
from nlnet.errors import UserError


class SegmentationDataModule(ShardDataModule):
    """Images of a folder's training and validation splits, and their masks.

    Args:
        shards: the folder of a data set as it is released, or a plain one: `nlnet.data.segmentation.layouts`.
        dataset: "cityscapes", "ade20k" or "voc", whose layout the folder has unless it is a plain one.
        train_split, val_split: names of splits; ADE20K's are called train and val as well.
        scale, ratio, crop, most_of_one, flip, color: see `CropSettings`.
        batch_size: of one optimizer step: of all ranks and all accumulated parts together.
        shared: the settings of batches and of reading; see `ShardDataModule`.

    Raises UserError for a folder that is not there, and for what is wrong with its files: see `check_pairs`.
    """

    def __init__(
        self,
        shards: str,
        dataset: str = "cityscapes",
        train_split: str = "train",
        val_split: str = "val",
        *,
        scale: Sequence[int] = (2048, 1024),
        ratio: Sequence[float] = (0.5, 2.0),
        crop: Sequence[int] = (512, 1024),
        most_of_one: float = 0.75,
        flip: bool = True,
        color: bool = True,
        batch_size: int = 8,
        **shared: Any,
    ) -> None:
        super().__init__(shards, batch_size=batch_size, **shared)
        if is_remote(self.shards):
            raise UserError(f"data.shards={self.shards}: images with masks are read from a folder of this machine")
        self.crops = _crop_settings(scale, ratio, crop, most_of_one, flip, color)
        self.folder = Path(self.shards).expanduser()
        self.layout = find_layout(self.folder, dataset)
        self.classes = self.layout.classes
        self._pairs: dict[str, dict[str, Pair]] = {}
        self.train, self.val = self._split(dataset, train_split), self._split(dataset, val_split)
        self.check_fills_a_batch(len(self.train.samples), "images")
        self.train_keys, self.val_keys = self.train.columns.keys, self.val.columns.keys

    def batches(self, rank_slice: RankSlice, *, train: bool) -> SegmentationBatches:
        manifest = self.train if train else self.val
        return SegmentationBatches(
            manifest,
            self.shards,
            rank_slice,
            pairs=self._pairs[manifest.split],
            layout=self.layout,
            crops=self.crops,
            seed=self.seed,
            window=self.window,
            train=train,
            settings=self.settings,
        )

    def _split(self, dataset: str, split: str) -> Manifest:
        """The split as a manifest without shards: a pair of files is like a shard of its own."""
        pairs = find_pairs(self.layout, self.folder, split)
        sizes = check_pairs(pairs, self.layout, self.folder)
        self._pairs[split] = {pair.key: pair for pair in pairs}
        samples = tuple(
            Sample(pair.key, k, 0, of.bytes, 0, frames=1, fps=1.0, width=of.width, height=of.height, labels=())
            for k, (pair, of) in enumerate(zip(pairs, sizes, strict=True))
        )
        return Manifest(dataset, split, "segmentation", self.layout.classes, {}, (), samples)


def _crop_settings(
    scale: Sequence[int],
    ratio: Sequence[float],
    crop: Sequence[int],
    most_of_one: float,
    flip: bool,
    color: bool,
) -> CropSettings:
    """Raises UserError for numbers that cannot be."""
    for key, pair in (("scale", scale), ("ratio", ratio), ("crop", crop)):
        if len(pair) != 2 or min(pair) <= 0:
            raise UserError(f"data.{key}={list(pair)}: give two numbers above 0")
    if ratio[0] > ratio[1]:
        raise UserError(f"data.ratio={list(ratio)}: give the smaller number first")
    if not 0 < most_of_one <= 1:
        raise UserError(f"data.most_of_one={most_of_one}: give a fraction above 0, 1 for any crop")
    long, short = sorted(map(int, scale), reverse=True)
    sizes = (float(ratio[0]), float(ratio[1])), (int(crop[0]), int(crop[1]))
    return CropSettings((long, short), *sizes, most_of_one, flip, color)
