"""The LightningDataModule of clips: finds the shards, checks them before training, and prepares batches."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from nlnet.data.batches.base import Batch, RankSlice
from nlnet.data.batches.clip_transforms import center_crop, prepare_clips
from nlnet.data.batches.clips import ClipBatches, ClipSettings
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.media.decode import DECODERS
from nlnet.data.modules.base import ShardDataModule
from nlnet.data.shards.find import find_shards, find_splits, is_pattern
from nlnet.data.shards.index import same_classes
from nlnet.errors import UserError, nearest

_RAW = ("clips", "flips", "colors")  # of a batch, not needed after `inputs` is made


class ClipDataModule(ShardDataModule):
    """Clips of a dataset's training and validation shards.

    Args:
        shards: folder or URL prefix that holds the shards and their manifests; or a pattern of WebDataset shards
            without manifest, as `nlnet.data.shards.find.find_shards` takes it.
        val_shards: likewise for validation; None for the same place.
        dataset: the first word of the shards' names, `charades` in `charades-train-000000.tar`.
        train_split, val_split: the second word; of the training also several, which are trained on as one.
        frames, stride: the clip, 32x2 for 64 consecutive frames of which every other is taken.
        fps: frames a second that clips are cut from; None for the frames as stored.
        size: side of the square crop that the network sees.
        scale: the range of the random short side; evaluation uses its lower end.
        flip: mirror half of the training clips.
        color_jitter: brightness, contrast and saturation change by factors from 1 - this to 1 + this.
        clips_per_video: clips of one video in a training batch, from one decoding: each with its own start, crop and
            colors. An epoch shows each video so many times.
        decoder: "pyav", or "torchcodec" where that is installed.
        batch_size: of one optimizer step: of all ranks and all accumulated parts together.
        shared: the settings of batches and of reading; see `ShardDataModule`.
    """

    def __init__(
        self,
        shards: str,
        dataset: str,
        train_split: str | Sequence[str] = "train",
        val_split: str = "val",
        *,
        val_shards: str | None = None,
        frames: int = 32,
        stride: int = 2,
        fps: float | None = None,
        size: int = 224,
        scale: tuple[int, int] = (256, 320),
        flip: bool = True,
        batch_size: int = 64,
        color_jitter: float = 0.0,
        clips_per_video: int = 1,
        decoder: str = "pyav",
        **shared: Any,
    ) -> None:
        super().__init__(shards, batch_size=batch_size, **shared)
        low, high = int(scale[0]), int(scale[1])
        if not size <= low <= high:
            raise UserError(f"data.scale={[low, high]}: needs data.size={size} <= low <= high; lower data.size")
        self._view = (ClipGeometry(frames, stride, fps), size, (low, high))
        self._flip, self._color_jitter, self.decoder = flip, color_jitter, check_decoder(decoder)
        self.clips_per_video = clips_per_video
        self._find(dataset, train_split, val_split, val_shards)
        if self.train.classes != self.val.classes:
            raise UserError(f"{self.shards}: the splits {self.train.split} and {val_split} name different classes")
        self.check_fills_a_batch(len(self.train.samples) * clips_per_video, "samples")
        self.kind, self.classes, self.groups = self.train.task, self.train.classes, self.train.groups
        self.subsets = self.val.subsets
        self.remarks = [*self._stored_too_small(), *self._trained_and_validated()]
        self.train_keys, self.val_keys = self.train.columns.keys, self.val.columns.keys

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(3, T, size, size), what the network sees of one sample."""
        return 3, self._view[0].frames, self._view[1], self._view[1]

    @property
    def further_shapes(self) -> tuple[tuple[int, ...], ...]:
        """What the network is given of one sample besides the clip."""
        return ()

    @property
    def geometry(self) -> ClipGeometry:
        """The clips that the network is trained on."""
        return self._view[0]

    def short_videos(self) -> int:
        """How many training videos are shorter than the clip and will be repeated cyclically."""
        geometry = self.geometry
        if geometry.fps is None:
            return int((self.train.columns.number("frames") < geometry.span).sum())
        return sum(s.times.resampled(geometry.fps).times.frames < geometry.span for s in self.train.samples)

    def _stored_too_small(self) -> list[str]:
        """Says how many training videos are smaller than the least that `scale` asks for, and what that costs."""
        _, size, (low, high) = self._view
        columns = self.train.columns
        sides = np.minimum(columns.number("width"), columns.number("height"))
        small, counts = np.unique(sides[sides < low], return_counts=True)
        if not len(small):
            return []
        side = int(small[counts.argmax()])
        least, most = (center_crop(side, side, size, scale).side for scale in (high, low))
        return [
            f"{counts.sum():,} of {len(sides):,} training videos are stored with a short side of less than the"
            f" {low} pixels of data.scale, most of them {side}: of these, crops of {least} to {most} pixels are"
            f" enlarged to {size}. If their files are larger, prepare them again with short_side={high}"
        ]

    def _trained_and_validated(self) -> list[str]:
        if self.train_root != self.val_root or self.val.split not in self.train.split.split("+"):
            return []
        return [
            f"the validation videos, split {self.val.split}, are also trained on ({self.train.split}): their figures"
            " say nothing of new videos"
        ]

    def _find(self, dataset: str, train_split: str | Sequence[str], val_split: str, val_shards: str | None) -> None:
        if is_pattern(self.shards) and not val_shards:
            raise UserError(f"data.val_shards is not set, and data.shards={self.shards} names the training shards only")
        self.train, self.train_root = find_splits(self.shards, dataset, train_split, self.settings)
        self.val, self.val_root = find_shards(str(val_shards or self.shards), dataset, val_split, self.settings)
        if not self.train_root and not self.val_root:
            self.train, self.val = same_classes(self.train, self.val)

    def batches(self, rank_slice: RankSlice, *, train: bool) -> ClipBatches:
        return ClipBatches(*self.batch_arguments(rank_slice, train=train))

    def batch_arguments(self, rank_slice: RankSlice, *, train: bool) -> tuple[Any, ...]:
        """Those of `ClipBatches`, in order."""
        each = rank_slice.part // rank_slice.world_size
        if train and each % self.clips_per_video:
            raise UserError(
                f"data.clips_per_video={self.clips_per_video} does not divide the {each} clips that a device works on"
                " at a time, which are of whole videos; give a number that does, or another data.batch_size"
            )
        geometry, size, scale = self._view
        return (
            self.train if train else self.val,
            self.train_root if train else self.val_root,
            ClipSettings(geometry, size, scale, self._flip, train, self._color_jitter, self.decoder),
            rank_slice,
            self.seed,
            self.window,
            self.settings,
            self.clips_per_video,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Resize, mirror and normalize on the device: adds `inputs` (B, 3, T, size, size), drops the raw frames."""
        with torch.no_grad():
            inputs = prepare_clips(batch["clips"], batch["flips"], self._view[1], batch.get("colors"))
        return {name: value for name, value in batch.items() if name not in _RAW} | {"inputs": inputs}


def check_decoder(name: str) -> str:
    """`name`, if there is such a decoder here."""
    if name not in DECODERS:
        raise UserError(f"data.decoder={name}: there is no such decoder; {nearest(name, DECODERS)}")
    if name != "pyav" and find_spec(name) is None:
        raise UserError(f"data.decoder={name}: it is not installed; pip install {name}, or set data.decoder=pyav")
    return name
