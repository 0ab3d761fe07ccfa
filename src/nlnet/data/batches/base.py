"""Batches read from shards, in an order that depends on the seed, the epoch and the position alone.

Shard bytes -> CRC check -> members of the sample -> decoded item -> batch. Whoever asks for batch `(epoch, t)` builds
it whole; so neither the number of workers nor that of ranks changes a batch, and the position in the data is all the
state there is.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from nlnet.data.batches.order import Order, Shards, epoch_order, eval_batch, train_batch
from nlnet.data.shards.manifest import Samples, Shard
from nlnet.data.shards.reader import Located, Outcome, SampleError, SampleReader, ShardSamples
from nlnet.data.shards.source import ReadSettings, ShardSource
from nlnet.data.shards.tar import TarError, sample_members

Batch = dict[str, Any]
"""What a task is given, by name; see `complete_batch` for what every batch holds."""

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
class RankSlice:
    """The part of every batch that one process works on: `batch_size` is that of all ranks and accumulated parts.

    Part p of the P = `accumulate` parts of batch s holds its samples from p `batch_size` / P on, and rank r of R ranks
    a contiguous R-th of those. So a batch is the same set of samples whatever P and R are.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    @property
    def part(self) -> int:
        """Samples that all ranks work on at a time."""
        return self.batch_size // self.accumulate


class ShardBatches(Dataset[Batch], ABC, Generic[SampleT, ItemT]):
    """Batch `(epoch, t)` of a manifest's samples, for one process's slice; where gradients are accumulated, t counts
    the parts of batches.

    A subclass decodes samples and puts items together. Besides what `collate` returns a batch holds what
    `complete_batch` names; `indices` are into the manifest, `reading` is since the batch before.

    Args:
        manifest: the samples.
        root: folder or prefix that the shards are in; "" where their names are whole URLs.
        rank_slice: which part of each batch.
        seed: of the order and the augmentation.
        window: shards that are shuffled together.
        train: shuffled full batches; else all samples in order, the last batch padded.
        settings: how shards are read.
        repeats: how many slots of a training batch a sample fills, one beside the other: it is read once for all.
            An epoch has each sample so many times.
    """

    suffixes: Collection[str]  # of the members that `decode` is given

    def __init__(
        self,
        manifest: Listing[SampleT],
        root: str,
        rank_slice: RankSlice,
        *,
        seed: int,
        window: int,
        train: bool,
        settings: ReadSettings,
        repeats: int = 1,
    ) -> None:
        self.repeats = repeats if train else 1
        self.manifest, self.root, self.rank_slice, self.seed = manifest, root, rank_slice, seed
        self.window, self.train, self.settings = window, train, settings
        self._shards: Shards | None = None
        self._order: tuple[int, Order] | None = None
        self._reader: SampleReader | None = None

    @abstractmethod
    def decode(self, sample: SampleT, members: dict[str, bytes], epoch: int) -> ItemT:
        """The item of one sample. Raises SampleError; anything else is a programming error and stops the run."""

    def decode_all(self, sample: SampleT, members: dict[str, bytes], epoch: int) -> list[ItemT]:
        """The items of the `repeats` slots of one sample. Raises as `decode` does."""
        return [self.decode(sample, members, epoch)]

    @abstractmethod
    def collate(self, indices: np.ndarray, items: Sequence[ItemT | None]) -> Batch:
        """The batch of `items`, None where there is none."""

    def make_reader(self) -> SampleReader:
        """What reads the samples ahead; made in the process that reads, when it first does."""
        source = ShardSamples(ShardSource(self.root, self.manifest.shards, self.settings))
        return SampleReader(source, self.settings.parallel, self.settings.ahead_mb * 1e6)

    def members(self, sample: SampleT, data: bytes) -> dict[str, bytes]:
        """The files of a sample by suffix, from the bytes that were read. Raises TarError."""
        return sample_members(data, self.suffixes)

    def order(self, epoch: int) -> Order:
        """The samples in the order of an epoch of training."""
        if self._shards is None:
            self._shards = Shards(_shard_of(self.manifest.samples))
        return epoch_order(self._shards, self.seed, epoch, self.window)

    def __len__(self) -> int:
        """Batches an epoch, or parts of such: full ones in training, all samples in evaluation."""
        count, size = len(self.manifest.samples), self.rank_slice.batch_size
        return count * self.repeats // size * self.rank_slice.accumulate if self.train else -(-count // size)

    def __getitem__(self, position: Position) -> Batch:
        epoch, t = position
        indices, real = self._indices(epoch, t)
        if self._reader is None:
            self._reader = self.make_reader()
        reader = self._reader
        reader.ahead(self._upcoming(epoch, t))
        outcomes = iter(reader.take(position))
        slots = [
            slot
            for index, keep in zip(indices, real, strict=True)
            for slot in (self._slots(int(index), next(outcomes), epoch) if keep else [None])
        ]
        indices, real = indices.repeat(self.repeats), real.repeat(self.repeats)
        failed = [(slot, int(i)) for slot, i in zip(slots, indices, strict=True) if isinstance(slot, SampleError)]
        items = [None if isinstance(slot, SampleError) else slot for slot in slots]
        count, retries = reader.source.traffic.take()
        return self.collate(indices, items) | {
            "weights": torch.tensor([item is not None for item in items], dtype=torch.float32),
            "indices": torch.from_numpy(indices),
            "padding": torch.from_numpy(~real),
            "failures": [(self.manifest.samples[i].key, slot.cause) for slot, i in failed],
            "errors": {slot.cause: slot.detail for slot, _ in reversed(failed)},
            "reading": {"bytes": count, "retries": retries, "seconds": 0.0},
        }

    def pending(self) -> set[Hashable]:
        """The batches that are read ahead at the moment."""
        return self._reader.pending() if self._reader else set()

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __getstate__(self) -> dict[str, Any]:
        # Threads stay with the process that started them, and what can be made again is not sent.
        return self.__dict__ | {"_reader": None, "_order": None, "_shards": None}

    def _upcoming(self, epoch: int, t: int) -> Iterator[tuple[Position, list[SampleT]]]:
        """This batch and those that this process will be asked for after it, in this epoch."""
        worker = get_worker_info()
        step = worker.num_workers if worker else 1
        for later in range(t, min(len(self), t + _AHEAD * step), step):
            indices, real = self._indices(epoch, later)
            yield (epoch, later), [self.manifest.samples[int(index)] for index in indices[real]]

    def _indices(self, epoch: int, t: int) -> tuple[np.ndarray, np.ndarray]:
        part = self.rank_slice
        if not self.train:
            return eval_batch(len(self.manifest.samples), t, part.batch_size, part.rank, part.world_size)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self.order(epoch))
        indices = train_batch(self._order[1], t, part.part // self.repeats, part.rank, part.world_size)
        return indices, np.ones(len(indices), dtype=bool)

    def _slots(self, index: int, outcome: Outcome, epoch: int) -> Sequence[ItemT | SampleError]:
        sample = self.manifest.samples[index]
        try:
            if isinstance(outcome, SampleError):
                raise outcome
            return self.decode_all(sample, self.members(sample, outcome), epoch)
        except SampleError as error:
            return [error] * self.repeats
        except TarError as error:
            return [SampleError("malformed", f"{sample.key}: {error}")] * self.repeats


def _shard_of(samples: Sequence[Located]) -> np.ndarray:
    if isinstance(samples, Samples):
        return samples.number("shard")
    return np.array([sample.shard for sample in samples], dtype=np.int64)


def complete_batch(batch: Batch, indices: Tensor) -> Batch:
    """`batch` with what nlnet has to know of its samples, for data that come from somewhere else than shards.

    Args:
        batch: `inputs` (B, ...) and `targets`, say: what the task computes with. What it holds already stays.
        indices: (B,) which samples of the data set these are; an evaluation counts each index once.

    Returns:
        The batch with
        `weights` (B,): 0 for a slot whose sample could not be read or that only pads the batch, 1 for all others;
        `indices` (B,);
        `padding` (B,): true for a slot that only pads the batch;
        `failures`: a list of (key, cause) of the samples that could not be read;
        `errors`: by cause, what went wrong with the first of them;
        `reading`: the `bytes` that were read for it, the `retries` and the `seconds` that it was waited for.
        Here every sample was read, and nothing is known of the reading.
    """
    return {
        "weights": torch.ones(len(indices)),
        "indices": indices,
        "padding": torch.zeros(len(indices), dtype=torch.bool),
        "failures": [],
        "errors": {},
        "reading": {"bytes": 0, "retries": 0, "seconds": 0.0},
        **batch,
    }
