"""The LightningDataModule of images that noise is added to."""

from collections.abc import Sequence
from typing import Any

from nlnet.data.batches.base import RankSlice
from nlnet.data.media.images import check_formats
from nlnet.data.media.suffixes import READ_ALWAYS
from nlnet.data.modules.base import ShardDataModule
from nlnet.data.restoration.batches import NoiseSettings, NoisyBatches
from nlnet.data.restoration.folder import read_split
from nlnet.errors import UserError


class RestorationDataModule(ShardDataModule):
    """Images of a training and a validation split, with Gaussian noise of a known deviation.

    Args:
        shards: a folder that holds one for each split, with the images anywhere below it.
        dataset: the name of the data set.
        train_split, val_split: the names of their folders.
        channels: 1 for gray images, 3 for color; an image of the other kind is turned into it.
        sigma: the deviation of the noise in levels of 8 bits, or two between which it is drawn for each patch.
        eval_sigma: that of an evaluation; for None `sigma`, or the middle between its two.
        patch_size: side of a training patch; no image may be smaller.
        patches_per_image: how many patches of an image are in an epoch.
        flip: turn patches by quarters and mirror them.
        image_formats: what else than JPEG and PNG is read: "bmp", "tiff", "webp".
        shuffle_shards: how many images are mixed at a time; as many are kept decoded as fit.
        batch_size: of one optimizer step: of all ranks and all accumulated parts together.
        shared: the settings of batches and of reading; see `ShardDataModule`.
    """

    def __init__(
        self,
        shards: str,
        dataset: str = "photographs",
        train_split: str = "train",
        val_split: str = "val",
        *,
        channels: int = 1,
        sigma: float | Sequence[float] = 25.0,
        eval_sigma: float | None = None,
        patch_size: int = 43,
        patches_per_image: int = 40,
        flip: bool = True,
        image_formats: Sequence[str] = READ_ALWAYS,
        batch_size: int = 16,
        **shared: Any,
    ) -> None:
        super().__init__(shards, batch_size=batch_size, **shared)
        if channels not in (1, 3):
            raise UserError(f"data.channels={channels}: give 1 for gray images or 3 for color")
        self.channels, self.sigma = channels, check_sigma(sigma)
        self.eval_sigma = sum(self.sigma) / 2 if eval_sigma is None else float(eval_sigma)
        formats = check_formats(image_formats, "data.image_formats")
        self.noise = NoiseSettings(self.sigma, channels, patch_size, patches_per_image, flip, formats)
        self._train = read_split(self.shards, dataset, train_split, formats, least_side=patch_size)
        self._val = read_split(self.shards, dataset, val_split, formats)
        self.train, self.val = self._train.manifest, self._val.manifest
        names, self.val_keys = list(self.train.columns.keys), list(self.val.columns.keys)
        self.train_keys = [name for name in names for _ in range(patches_per_image)]
        self.check_fills_a_batch(len(self.train.samples) * patches_per_image, "patches")
        both = sorted(set(names) & set(self.val_keys))
        self.remarks = [
            f"{len(self.train.samples)} images to train on, {len(self.val.samples)} held out for the score"
            f" ({', '.join(self.val_keys[:4])}{', ...' if len(self.val_keys) > 4 else ''}), {self._told()}",
            *([f"{len(both)} names are in both splits, such as {both[0]}: is it the same image?"] if both else []),
        ]

    def batches(self, rank_slice: RankSlice, *, train: bool) -> NoisyBatches:
        noise = (
            self.noise if train else NoiseSettings((self.eval_sigma,) * 2, self.channels, formats=self.noise.formats)
        )
        return NoisyBatches(
            self._train if train else self._val,
            noise,
            rank_slice,
            seed=self.seed,
            window=self.window,
            train=train,
            reading=self.settings,
        )

    def _told(self) -> str:
        low, high = self.sigma
        drawn = f"sigma {low:g}" if low == high else f"sigma {low:g} to {high:g}, {self.eval_sigma:g} for the score"
        return f"{'gray' if self.channels == 1 else 'color'}, {drawn}"


def check_sigma(sigma: float | Sequence[float]) -> tuple[float, float]:
    """The least and the largest deviation. Raises UserError for what is none."""
    given = [sigma, sigma] if isinstance(sigma, int | float) else list(sigma)
    if len(given) != 2 or not 0 <= given[0] <= given[1] <= 255:
        raise UserError(f"data.sigma={sigma}: give a deviation from 0 to 255, or two, [0,55], the smaller one first")
    return float(given[0]), float(given[1])
