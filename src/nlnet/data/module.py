"""The LightningDataModule: finds the shards, checks them before training, hands out loaders and prepares batches."""

from importlib.util import find_spec

import pytorch_lightning as pl
import torch

from nlnet.data.augment import prepare_clips
from nlnet.data.batches import Batch, Share
from nlnet.data.clip_batches import ClipBatches, View
from nlnet.data.clips import ClipGeometry
from nlnet.data.find import Found, find_shards, is_pattern, load_manifest
from nlnet.data.index import same_classes
from nlnet.data.loader import ClipLoader
from nlnet.data.source import ReadSettings
from nlnet.data.video import DECODERS
from nlnet.errors import UserError, nearest

__all__ = ["ClipDataModule", "check_divides", "load_manifest"]


_RAW = ("clips", "flips", "colors")  # of a batch, not needed after `inputs` is made


class ClipDataModule(pl.LightningDataModule):
    """Clips of a dataset's training and validation shards.

    Args:
        shards: folder or URL prefix that holds the shards and their manifests; or a pattern of WebDataset shards
            without manifest, as `nlnet.data.find.find_shards` takes it.
        val_shards: likewise for validation; None for the same place.
        dataset: the first word of the shards' names, `charades` in `charades-train-000000.tar`.
        train_split, val_split: the second word.
        frames, stride: the clip, 32x2 for 64 consecutive frames of which every other is taken.
        size: side of the square crop that the network sees.
        scale: the range of the random short side; evaluation uses its lower end.
        flip: mirror half of the training clips.
        batch_size: of all ranks together.
        eval_batch_size: likewise; the training batch size for None.
        num_workers: processes that read and decode, per rank; the batches do not depend on it.
        shuffle_shards: how many shards are shuffled together.
        max_missing_eval: how many validation videos may be unreadable before validation stops.
        max_skipped: share of unreadable training samples above which training stops.
        max_consecutive_failures: unreadable training samples in a row, on one rank, after which training stops.
        color_jitter: brightness, contrast and saturation change by factors from 1 - this to 1 + this.
        decoder: "pyav", or "torchcodec" where that is installed.
        read_timeout_s: seconds after which a read that keeps failing is given up.
        parallel_reads: requests in flight, per loader process.
        read_ahead_mb: megabytes that are read ahead, per loader process.
        cache_dir: folder to keep whole remote shards in; None for not keeping them.
        cache_gb: gigabytes that the folder may hold.
        allow_pipe: run the commands in `pipe:` URLs.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        shards: str,
        dataset: str,
        train_split: str = "train",
        val_split: str = "val",
        *,
        val_shards: str | None = None,
        frames: int = 32,
        stride: int = 2,
        size: int = 224,
        scale: tuple[int, int] = (256, 320),
        flip: bool = True,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        shuffle_shards: int = 8,
        max_missing_eval: int = 0,
        max_skipped: float = 0.05,
        max_consecutive_failures: int = 100,
        color_jitter: float = 0.0,
        decoder: str = "pyav",
        read_timeout_s: float = 60,
        parallel_reads: int = 8,
        read_ahead_mb: float = 128,
        cache_dir: str | None = None,
        cache_gb: float = 50,
        allow_pipe: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shards, self.seed, self.num_workers, self.window = str(shards), seed, num_workers, shuffle_shards
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.max_missing_eval, self.max_skipped = max_missing_eval, max_skipped
        self.max_consecutive_failures = max_consecutive_failures
        self.settings = ReadSettings(read_timeout_s, parallel_reads, read_ahead_mb, cache_dir, cache_gb, allow_pipe)
        low, high = int(scale[0]), int(scale[1])
        if not size <= low <= high:
            raise UserError(f"data.scale={[low, high]}: needs data.size={size} <= low <= high; lower data.size")
        self._view = (ClipGeometry(frames, stride), size, (low, high))
        self._flip, self._color_jitter, self.decoder = flip, color_jitter, check_decoder(decoder)
        self._loaders: list[ClipLoader] = []
        self._find(dataset, train_split, val_split, val_shards)
        if self.train.classes != self.val.classes:
            raise UserError(f"{self.shards}: the splits {train_split} and {val_split} name different classes")
        if len(self.train.samples) < batch_size:
            raise UserError(
                f"data.batch_size={batch_size} is more than the {len(self.train.samples)} training samples in"
                f" {self.shards}; lower it"
            )

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(3, T, size, size), what the network sees of one sample."""
        return 3, self._view[0].frames, self._view[1], self._view[1]

    @property
    def geometry(self) -> ClipGeometry:
        """The clips that the network is trained on."""
        return self._view[0]

    def short_videos(self) -> int:
        """How many training videos are shorter than the clip and will be repeated cyclically."""
        return sum(sample.frames < self._view[0].span for sample in self.train.samples)

    def _find(self, dataset: str, train_split: str, val_split: str, val_shards: str | None) -> None:
        if is_pattern(self.shards) and not val_shards:
            raise UserError(f"data.val_shards is not set, and data.shards={self.shards} names the training shards only")
        self.train, self.train_root = find_shards(self.shards, dataset, train_split, self.settings)
        self.val, self.val_root = find_shards(str(val_shards or self.shards), dataset, val_split, self.settings)
        if not self.train_root and not self.val_root:
            self.train, self.val = same_classes(self.train, self.val)

    def train_dataloader(self) -> ClipLoader:
        return self._loader(
            Found(self.train, self.train_root), train=True, batch_size=self.batch_size, key="data.batch_size"
        )

    def val_dataloader(self) -> ClipLoader:
        return self._loader(
            Found(self.val, self.val_root), train=False, batch_size=self.eval_batch_size, key="data.eval_batch_size"
        )

    test_dataloader = val_dataloader

    def _loader(self, found: Found, *, train: bool, batch_size: int, key: str) -> ClipLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        check_divides(batch_size, world_size, key)
        geometry, size, scale = self._view
        batches = ClipBatches(
            found.manifest,
            found.root,
            View(geometry, size, scale, self._flip, train, self._color_jitter, self.decoder),
            Share(batch_size, rank, world_size),
            self.seed,
            self.window,
            self.settings,
        )
        overfit = bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]
        loader = ClipLoader(batches, self.num_workers, repeat_epoch=overfit)
        self._loaders.append(loader)
        return loader

    def close(self) -> None:
        """Stop the workers of every loader that was handed out."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Resize, mirror and normalise on the device: adds `inputs` (B, 3, T, size, size), drops the raw frames."""
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


def check_divides(batch_size: int, world_size: int, key: str) -> None:
    """A batch is split evenly over the ranks, or refused."""
    if batch_size % world_size:
        low, high = batch_size // world_size * world_size, -(-batch_size // world_size) * world_size
        raise UserError(f"{key}={batch_size} does not divide over {world_size} ranks; use {low or high} or {high}")
