"""Batches read from shards, in an order that depends on the seed, the epoch and the position alone.

Shard bytes -> CRC check -> members of the sample -> decoded item -> batch. Whoever asks for batch `(epoch, t)` builds
it whole; so neither the number of workers nor that of ranks changes a batch, and the position in the data is all the
state there is.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from nlnet.data.manifest import Shard
from nlnet.data.order import epoch_order, eval_batch, train_batch
from nlnet.data.reader import Located, Outcome, SampleError, SampleReader
from nlnet.data.source import ReadSettings, ShardSource
from nlnet.data.tar import TarError, sample_members

Batch = dict[str, Any]
Position = tuple[int, int]
SampleT = TypeVar("SampleT", bound=Located)
SampleT_co = TypeVar("SampleT_co", bound=Located, covariant=True)
ItemT = TypeVar("ItemT")

_AHEAD = 16  # batches at most; the bound in bytes is reached before, but for tiny samples


class Listing(Protocol[SampleT_co]):
    """What a manifest has to have: shards, and the samples in them."""

    @property
    def shards(self) -> Sequence[Shard]: ...
    @property
    def samples(self) -> Sequence[SampleT_co]: ...


@dataclass(frozen=True)
class Share:
    """The part of every global batch that one process works on."""

    batch_size: int
    rank: int = 0
    world_size: int = 1


class ShardBatches(Dataset[Batch], ABC, Generic[SampleT, ItemT]):
    """Batch `(epoch, t)` of a manifest's samples, for one process's share.

    A subclass decodes samples and puts items together. Besides what `collate` returns a batch holds `weights` (B,) with
    0 for a slot whose sample failed or that pads, `indices` (B,) into the manifest, `padding` (B,), `failures`, a list
    of (key, cause), and `reading`, the bytes and the repeated requests since the batch before.
    """

    suffixes: Collection[str]  # of the members that `decode` is given

    def __init__(
        self,
        manifest: Listing[SampleT],
        root: str,
        share: Share,
        *,
        seed: int,
        window: int,
        train: bool,
        settings: ReadSettings,
    ) -> None:
        self.manifest, self.root, self.share, self.seed, self.window = manifest, root, share, seed, window
        self.train, self.settings = train, settings
        self._shard_of = np.array([sample.shard for sample in manifest.samples], dtype=np.int64)
        self._order: tuple[int, np.ndarray] | None = None
        self._reader: SampleReader | None = None

    @abstractmethod
    def decode(self, sample: SampleT, members: dict[str, bytes], epoch: int) -> ItemT:
        """The item of one sample. Raises SampleError; anything else is a programming error and stops the run."""

    @abstractmethod
    def collate(self, indices: np.ndarray, items: Sequence[ItemT | None]) -> Batch:
        """The batch of `items`, None where there is none."""

    def order(self, epoch: int) -> np.ndarray:
        """The samples in the order of an epoch of training."""
        return epoch_order(self._shard_of, self.seed, epoch, self.window)

    def __len__(self) -> int:
        """Batches an epoch: full ones in training, all samples in evaluation."""
        count, size = len(self._shard_of), self.share.batch_size
        return count // size if self.train else -(-count // size)

    def __getitem__(self, position: Position) -> Batch:
        epoch, t = position
        indices, real = self._indices(epoch, t)
        reader = self._open()
        reader.ahead(self._upcoming(epoch, t))
        outcomes = iter(reader.take(position))
        slots = [
            self._slot(int(index), next(outcomes), epoch) if keep else None
            for index, keep in zip(indices, real, strict=True)
        ]
        failed = [(slot, int(i)) for slot, i in zip(slots, indices, strict=True) if isinstance(slot, SampleError)]
        items = [None if isinstance(slot, SampleError) else slot for slot in slots]
        count, retries = reader.source.traffic.take()
        return self.collate(indices, items) | {
            "weights": torch.tensor([item is not None for item in items], dtype=torch.float32),
            "indices": torch.from_numpy(indices),
            "padding": torch.from_numpy(~real),
            "failures": [(self.manifest.samples[i].key, slot.cause) for slot, i in failed],
            "reading": {"bytes": count, "retries": retries, "seconds": 0.0},
        }

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None, "_order": None}  # threads stay with the process that started them

    def _open(self) -> SampleReader:
        if self._reader is None:
            source = ShardSource(self.root, self.manifest.shards, self.settings)
            self._reader = SampleReader(source, self.settings.parallel, self.settings.ahead_mb * 1e6)
        return self._reader

    def _upcoming(self, epoch: int, t: int) -> Iterator[tuple[Position, list[SampleT]]]:
        """This batch and those that this process will be asked for after it, in this epoch."""
        worker = get_worker_info()
        step = worker.num_workers if worker else 1
        for later in range(t, min(len(self), t + _AHEAD * step), step):
            indices, real = self._indices(epoch, later)
            yield (epoch, later), [self.manifest.samples[int(index)] for index in indices[real]]

    def _indices(self, epoch: int, t: int) -> tuple[np.ndarray, np.ndarray]:
        share = self.share
        if not self.train:
            return eval_batch(len(self._shard_of), t, share.batch_size, share.rank, share.world_size)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self.order(epoch))
        indices = train_batch(self._order[1], t, share.batch_size, share.rank, share.world_size)
        return indices, np.ones(len(indices), dtype=bool)

    def _slot(self, index: int, outcome: Outcome, epoch: int) -> ItemT | SampleError:
        if isinstance(outcome, SampleError):
            return outcome
        sample = self.manifest.samples[index]
        try:
            return self.decode(sample, sample_members(outcome, self.suffixes), epoch)
        except SampleError as error:
            return error
        except TarError as error:
            return SampleError("malformed", f"{sample.key}: {error}")
