"""The LightningDataModule: finds the shards, checks them before training, hands out loaders and prepares batches."""

from pathlib import Path

import pytorch_lightning as pl
import torch

from nlnet.data import storage
from nlnet.data.augment import prepare_clips
from nlnet.data.clips import ClipGeometry
from nlnet.data.loader import Batch, ClipBatches, ClipLoader, Share, View
from nlnet.data.manifest import Manifest, manifest_name
from nlnet.errors import UserError


class ClipDataModule(pl.LightningDataModule):
    """Clips of a dataset's training and validation shards.

    Args:
        shards: folder or URL prefix that holds the shards and their manifests.
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
        seed: of order and augmentation.
    """

    def __init__(
        self,
        shards: str,
        dataset: str,
        train_split: str = "train",
        val_split: str = "val",
        *,
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shards, self.seed, self.num_workers, self.window = str(shards), seed, num_workers, shuffle_shards
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.max_missing_eval, self.max_skipped = max_missing_eval, max_skipped
        low, high = int(scale[0]), int(scale[1])
        if not size <= low <= high:
            raise UserError(f"data.scale={[low, high]}: needs data.size={size} <= low <= high; lower data.size")
        self._view = (ClipGeometry(frames, stride), size, (low, high))
        self._flip = flip
        self._loaders: list[ClipLoader] = []
        self.train = load_manifest(self.shards, dataset, train_split)
        self.val = load_manifest(self.shards, dataset, val_split)
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

    def short_videos(self) -> int:
        """How many training videos are shorter than the clip and will be repeated cyclically."""
        return sum(sample.frames < self._view[0].span for sample in self.train.samples)

    def train_dataloader(self) -> ClipLoader:
        return self._loader(self.train, train=True, batch_size=self.batch_size, key="data.batch_size")

    def val_dataloader(self) -> ClipLoader:
        return self._loader(self.val, train=False, batch_size=self.eval_batch_size, key="data.eval_batch_size")

    test_dataloader = val_dataloader

    def _loader(self, manifest: Manifest, *, train: bool, batch_size: int, key: str) -> ClipLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        check_divides(batch_size, world_size, key)
        geometry, size, scale = self._view
        batches = ClipBatches(
            manifest,
            self.shards,
            View(geometry, size, scale, self._flip, train),
            Share(batch_size, rank, world_size),
            self.seed,
            self.window,
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
            inputs = prepare_clips(batch["clips"], batch["flips"], self._view[1])
        return {name: value for name, value in batch.items() if name not in ("clips", "flips")} | {"inputs": inputs}


def check_divides(batch_size: int, world_size: int, key: str) -> None:
    """A batch is split evenly over the ranks, or refused."""
    if batch_size % world_size:
        low, high = batch_size // world_size * world_size, -(-batch_size // world_size) * world_size
        raise UserError(f"{key}={batch_size} does not divide over {world_size} ranks; use {low or high} or {high}")


def load_manifest(shards: str, dataset: str, split: str) -> Manifest:
    """The manifest of one split, with its local shards looked at: present, and of the size that the manifest says."""
    url = storage.join(shards, manifest_name(dataset, split))
    try:
        manifest = Manifest.from_json(storage.read_bytes(url).decode(), url)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"data.shards={shards}: {_what_is_there(shards, dataset, split)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.shards={shards}: cannot read {url}: {error}") from error
    if not manifest.samples:
        raise UserError(f"{url}: holds no samples; prepare the shards again with readable videos")
    if not storage.is_remote(shards):
        for shard in manifest.shards:
            path = Path(storage.join(shards, shard.name))
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise UserError(f"{path}: {found}, the manifest says {shard.bytes}; prepare or copy it again")
    return manifest


def _what_is_there(shards: str, dataset: str, split: str) -> str:
    wanted = manifest_name(dataset, split)
    mend = "make shards with: python src/prepare.py dataset=... source=... out=..."
    if storage.is_remote(shards):
        return f"there is no {wanted}; {mend}"
    folder = Path(shards)
    if not folder.is_dir():
        return f"there is no such folder; {mend}"
    manifests = sorted(path.name for path in folder.glob("*-manifest.json"))
    if manifests:
        return f"there is no {wanted}, but {', '.join(manifests)}; set data.dataset, data.train_split or data.val_split"
    if any(folder.glob("*.tar")):
        return f"there are shards but no {wanted} beside them; {mend}"
    return f"the folder holds no shards; {mend}"
