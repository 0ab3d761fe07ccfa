"""The base of all data modules, and the base of those that read shards."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl

from nlnet.data.batches.base import RankSlice, ShardBatches
from nlnet.data.batches.loader import BatchLoader
from nlnet.data.batches.workers import TIMEOUT_S
from nlnet.data.modules.fingerprint import Fingerprint, digest, fingerprint, hashed_keys, hashed_samples
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.source import ReadSettings
from nlnet.errors import UserError


class DataModule(pl.LightningDataModule):
    """Base of all data modules: what a run asks of its data, and the loaders that were handed out.

    One of your own says its `classes` and has `train_dataloader` and `val_dataloader`. Their batches hold what the task
    computes with, for a classification `inputs` (B, 3, T, H, W) and `targets`, and what
    `nlnet.data.batches.base.complete_batch` adds. A torch DataLoader will do. A run that is killed then goes on at the
    beginning of its epoch; it repeats its batches exactly where the loader has `state_dict` and `load_state_dict` with
    its position, as `nlnet.data.batches.loader.BatchLoader` has.
    """

    classes: Sequence[str] = ()
    """The names of the classes."""

    groups: Mapping[str, Sequence[int]] = {}
    """Named sets of class indices that are reported apart."""

    subsets: Mapping[str, Sequence[int]] = {}
    """Named sets of indices of validation samples that are reported apart."""

    train_keys: Sequence[str] = ()
    """The names of the training samples by index, for messages; their numbers if empty."""

    val_keys: Sequence[str] = ()
    """The names of the validation samples by index; their numbers if empty."""

    remarks: Sequence[str] = ()
    """What a run says of its data when it starts, a line each."""

    max_missing_eval: int = 0
    """How many validation samples may be unreadable before validation stops."""

    max_skipped: float = 0.05
    """The fraction of unreadable training samples above which training stops."""

    max_consecutive_failures: int = 100
    """Unreadable training samples in a row, on one rank, after which training stops."""

    worker_timeout_s: float = TIMEOUT_S
    """Seconds that a loader process may give nothing while it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._loaders: list[BatchLoader] = []

    def close(self) -> None:
        """Stop the workers of every loader that was handed out."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def fingerprint(self) -> Fingerprint:
        """What a run that goes on, and every rank, has to find again; see `nlnet.data.modules.fingerprint`."""
        return fingerprint(self.classes, self.groups, hashed_keys(self.train_keys), hashed_keys(self.val_keys))

    def digest(self) -> str:
        """A hash of all that the fingerprint is of, where one is had in a fraction of its time; else "".

        Data of the same digest have the same fingerprint.
        """
        return ""

    def ranks(self) -> tuple[int, int]:
        """Which of how many ranks this is; 0 of 1 without a trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def accumulated(self) -> int:
        """The parts of a batch whose gradients make one optimizer step together; 1 without a trainer."""
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def hand_out(self, batches: ShardBatches[Any, Any], num_workers: int) -> BatchLoader:
        """A loader of `batches`."""
        overfit = bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]
        timeout, limit = self.worker_timeout_s, self._limit(len(batches))
        loader = BatchLoader(batches, num_workers, per_epoch=limit, repeat_epoch=overfit, worker_timeout_s=timeout)
        self._loaders.append(loader)
        return loader

    def _limit(self, batches: int) -> int | None:
        """How many training batches the trainer takes of an epoch's, as Lightning counts them."""
        limit: int | float = self.trainer.limit_train_batches if self.trainer else 1.0  # type: ignore[attr-defined]
        return limit if isinstance(limit, int) else int(batches * limit)


class ShardDataModule(DataModule):
    """Base of those that train: they find samples and say how they become batches.

    Args:
        shards: where the samples are.
        batch_size: of one optimizer step: of all ranks and all accumulated parts together.
        eval_batch_size: of all ranks together; for None as many as are trained on at a time.
        num_workers: processes that read and decode, per rank; the batches do not depend on it.
        shuffle_shards: how many shards are shuffled together.
        max_missing_eval: how many validation samples may be unreadable before validation stops.
        max_skipped: fraction of unreadable training samples above which training stops.
        max_consecutive_failures: unreadable training samples in a row, on one rank, after which training stops.
        worker_timeout_s: seconds that a loader process may give nothing while a batch is waited for.
        read_timeout_s: seconds after which a read that keeps failing is given up.
        parallel_reads: requests in flight, per loader process.
        read_ahead_mb: megabytes that are read ahead, per loader process.
        cache_dir: folder to keep whole remote shards in; None for not keeping them.
        cache_gb: gigabytes that the folder may hold.
        allow_pipe: run the commands in `pipe:` URLs.
        seed: of order and augmentation.
    """

    train: Manifest
    val: Manifest

    def __init__(
        self,
        shards: str,
        *,
        batch_size: int,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        shuffle_shards: int = 8,
        max_missing_eval: int = 0,
        max_skipped: float = 0.05,
        max_consecutive_failures: int = 100,
        worker_timeout_s: float = TIMEOUT_S,
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
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.max_missing_eval, self.max_skipped = max_missing_eval, max_skipped
        self.max_consecutive_failures, self.worker_timeout_s = max_consecutive_failures, worker_timeout_s
        if not worker_timeout_s > 0:
            raise UserError(f"data.worker_timeout_s={worker_timeout_s}: give seconds, more than 0")
        self.settings = ReadSettings(read_timeout_s, parallel_reads, read_ahead_mb, cache_dir, cache_gb, allow_pipe)

    def fingerprint(self) -> Fingerprint:
        return fingerprint(self.classes, self.groups, hashed_samples(self.train), hashed_samples(self.val))

    def digest(self) -> str:
        return digest(self.classes, self.groups, (self.train, self.val))

    def train_dataloader(self) -> BatchLoader:
        return self._loader(train=True)

    def val_dataloader(self) -> BatchLoader:
        return self._loader(train=False)

    test_dataloader = val_dataloader

    def batches(self, rank_slice: RankSlice, *, train: bool) -> ShardBatches[Any, Any]:
        """The batches of one rank, of the training or of the validation split."""
        raise NotImplementedError

    def check_fills_a_batch(self, samples: int, what: str) -> None:
        """Refuse a training split that is smaller than one batch."""
        if samples < self.batch_size:
            raise UserError(
                f"data.batch_size={self.batch_size} is more than the {samples} training {what} in {self.shards};"
                " lower it"
            )

    def _loader(self, *, train: bool) -> BatchLoader:
        rank, world_size = self.ranks()
        parts = self.accumulated()
        if train or self.eval_batch_size is None:
            check_divides(self.batch_size, world_size, "data.batch_size", parts)
        if train:
            part = RankSlice(self.batch_size, rank, world_size, parts)
        else:
            part = RankSlice(self.eval_batch_size or self.batch_size // parts, rank, world_size)
            check_divides(part.batch_size, world_size, "data.eval_batch_size")
        return self.hand_out(self.batches(part, train=train), self.num_workers)


def check_divides(batch_size: int, world_size: int, key: str, accumulate: int = 1) -> None:
    """A batch is split evenly over the ranks and the accumulated parts, or refused."""
    if batch_size % (unit := world_size * accumulate):
        low, high = batch_size // unit * unit, -(-batch_size // unit) * unit
        over = f"{world_size} ranks" if world_size > 1 else ""
        parts = f"{accumulate} accumulated parts (trainer.accumulate_grad_batches)" if accumulate > 1 else ""
        raise UserError(
            f"{key}={batch_size} does not divide over {' x '.join(filter(None, (over, parts)))};"
            f" use {f'{low} or {high}' if low else high}"
        )
