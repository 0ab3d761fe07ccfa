"""Batches of clips read from shards, in an order that depends on the seed, the epoch and the position alone.

Shard bytes -> CRC check -> encoded video -> frame indices -> decoded, cropped uint8 frames -> batch. A DataLoader
worker builds whole batches, addressed by `(epoch, t)`; so neither the number of workers nor that of ranks changes a
batch, and the position in the data is all the state there is.
"""

import io
import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader, Dataset, Sampler

from nlnet.data import storage
from nlnet.data.augment import Crop, center_crop, random_crop
from nlnet.data.clips import ClipGeometry, active_classes, center_start, frame_indices, random_start
from nlnet.data.manifest import Manifest, Sample
from nlnet.data.order import epoch_order, eval_batch, train_batch
from nlnet.data.video import VideoError, decode_clip

Batch = dict[str, Any]
_GRACE_SECONDS = 30  # that a worker lives on after a SIGTERM


class SampleError(Exception):
    """A sample that cannot be used; `cause` is the word it is counted under."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause


@dataclass(frozen=True)
class View:
    """How a clip is cut from a video, for training (random) or for evaluation (the middle)."""

    geometry: ClipGeometry
    size: int
    scale: tuple[int, int]
    flip: bool
    train: bool


@dataclass(frozen=True)
class Share:
    """The part of every global batch that one process works on."""

    batch_size: int
    rank: int = 0
    world_size: int = 1


def read_video(manifest: Manifest, root: str, sample: Sample) -> bytes:
    """The encoded video of one sample: a ranged read, whose CRC32 is checked before anything parses it."""
    url = storage.join(root, manifest.shards[sample.shard].name)
    try:
        data = storage.read_range(url, sample.offset, sample.length)
    except (OSError, EOFError) as error:
        raise SampleError("unreadable", f"{sample.key}: {error}") from error
    if zlib.crc32(data) != sample.crc32:
        raise SampleError("checksum", f"{sample.key} in {url} at {sample.offset}: its CRC32 is not the manifest's")
    members = wds.tariterators.tar_file_expander([{"url": url, "stream": io.BytesIO(data)}])
    return next(bytes(member["data"]) for member in members if member["fname"].endswith(".mp4"))


class ClipBatches(Dataset[Batch]):
    """Batch `(epoch, t)` of a manifest's samples, for one process's share.

    A batch holds `clips` (uint8 (T, H, W, 3) each), `flips` (B,), `targets` (B, classes) float or (B,) long, `weights`
    (B,) with 0 for a slot whose sample failed or that pads, `indices` (B,) into the manifest, and `failures`, a list
    of (key, cause).
    """

    def __init__(self, manifest: Manifest, root: str, view: View, share: Share, seed: int, window: int) -> None:
        self.manifest, self.root, self.view, self.share, self.seed, self.window = (
            manifest, root, view, share, seed, window,
        )  # fmt: skip
        self._shard_of = np.array([sample.shard for sample in manifest.samples], dtype=np.int64)
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Batches an epoch: full ones in training, all samples in evaluation."""
        count, size = len(self._shard_of), self.share.batch_size
        return count // size if self.view.train else -(-count // size)

    def __getitem__(self, position: tuple[int, int]) -> Batch:
        epoch, t = position
        indices, real = self._indices(epoch, t)
        slots = [self._slot(epoch, int(index)) if keep else None for index, keep in zip(indices, real, strict=True)]
        return self._collate(indices, real, slots)

    def _indices(self, epoch: int, t: int) -> tuple[np.ndarray, np.ndarray]:
        share = self.share
        if not self.view.train:
            return eval_batch(len(self._shard_of), t, share.batch_size, share.rank, share.world_size)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, epoch_order(self._shard_of, self.seed, epoch, self.window))
        indices = train_batch(self._order[1], t, share.batch_size, share.rank, share.world_size)
        return indices, np.ones(len(indices), dtype=bool)

    def _slot(self, epoch: int, index: int) -> tuple[np.ndarray, bool, list[int]] | SampleError:
        sample = self.manifest.samples[index]
        # From (seed, epoch, sample): what a sample looks like depends on no other sample and on no history.
        rng = np.random.default_rng((self.seed, epoch, zlib.crc32(sample.key.encode())))
        try:
            video = read_video(self.manifest, self.root, sample)
            crop, frames = self._choose(sample, rng)
            clip = decode_clip(video, frames.tolist())
        except SampleError as error:
            return error
        except (VideoError, IndexError) as error:
            return SampleError(getattr(error, "cause", "short"), f"{sample.key}: {error}")
        clip = clip[:, crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
        return np.ascontiguousarray(clip), crop.flip, active_classes(sample, frames if self.view.train else None)

    def _choose(self, sample: Sample, rng: np.random.Generator) -> tuple[Crop, np.ndarray]:
        view, height, width = self.view, sample.height, sample.width
        if view.train:
            start = random_start(view.geometry, sample.frames, rng)
            crop = random_crop(height, width, view.size, view.scale, view.flip, rng)
        else:
            start = center_start(view.geometry, sample.frames)
            crop = center_crop(height, width, view.size, view.scale[0])
        return crop, frame_indices(view.geometry, sample.frames, start)

    def _collate(self, indices: np.ndarray, real: np.ndarray, slots: list[Any]) -> Batch:
        blank = np.zeros((self.view.geometry.frames, self.view.size, self.view.size, 3), np.uint8)
        good = [isinstance(slot, tuple) for slot in slots]
        clips = [torch.from_numpy(slot[0] if ok else blank) for slot, ok in zip(slots, good, strict=True)]
        samples = self.manifest.samples
        return {
            "clips": torch.stack(clips) if len({clip.shape for clip in clips}) == 1 else clips,
            "flips": torch.tensor([slot[1] if ok else False for slot, ok in zip(slots, good, strict=True)]),
            "targets": self._targets([slot[2] if ok else [] for slot, ok in zip(slots, good, strict=True)]),
            "weights": torch.tensor(good, dtype=torch.float32),
            "indices": torch.from_numpy(indices),
            "padding": torch.from_numpy(~real),
            "failures": [
                (samples[int(index)].key, slot.cause)
                for index, slot in zip(indices, slots, strict=True)
                if isinstance(slot, SampleError)
            ],
        }

    def _targets(self, classes: list[list[int]]) -> torch.Tensor:
        if self.manifest.task == "multiclass":
            return torch.tensor([labels[0] if labels else 0 for labels in classes])
        targets = torch.zeros(len(classes), len(self.manifest.classes))
        for row, labels in enumerate(classes):
            targets[row, labels] = 1
        return targets


class _Positions(Sampler[tuple[int, int]]):
    """The rest of one epoch, `(epoch, t)` with t from `start`; the loader moves it on before every pass."""

    def __init__(self, length: int) -> None:
        self.epoch, self.start, self.length = 0, 0, length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, t) for t in range(self.start, self.length))


class ClipLoader:
    """Iterates over the batches of one epoch at a time and can be stopped and resumed between any two of them.

    `state_dict()` is the position of the batch that comes next, `{"epoch", "t"}`, equal on all ranks. A pass that is
    left early does not come back: the next one starts the next epoch. With `repeat_epoch` every pass is the first
    epoch, for overfitting a few batches on purpose.
    """

    def __init__(
        self, batches: ClipBatches, num_workers: int = 0, *, prefetch: int = 2, repeat_epoch: bool = False
    ) -> None:
        self.batches, self.repeat_epoch = batches, repeat_epoch
        self.epoch, self.t = 0, 0
        self._resumed = False
        self._positions = _Positions(len(batches))
        workers: dict[str, Any] = {}
        if num_workers > 0:
            # A forked worker would hang in the object-store client, whose threads a fork does not copy.
            torch.multiprocessing.get_context("forkserver").set_forkserver_preload(["nlnet.data.loader"])
            workers = {
                "multiprocessing_context": "forkserver",
                "prefetch_factor": prefetch,
                "persistent_workers": True,
                "worker_init_fn": partial(_start_worker, dict(os.environ)),
            }
        self._loader: DataLoader[Batch] = DataLoader(
            batches,
            batch_size=None,
            sampler=self._positions,
            num_workers=num_workers,
            # Its own generator: the base seed of the workers must not be drawn from the model's random numbers.
            generator=torch.Generator().manual_seed(0),
            **workers,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if self.repeat_epoch:
            self.epoch, self.t = 0, 0
        elif self.batches.view.train and self.t and not self._resumed:
            self.epoch, self.t = self.epoch + 1, 0
        self._resumed = False
        self._positions.epoch, self._positions.start = self.epoch, self.t
        return self._pass(iter(self._loader))

    def _pass(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.batches.view.train:
                # The position moves on before the batch is handed out, the epoch's end included: the trainer saves
                # while it holds the last batch and does not come back for a StopIteration.
                self.epoch, self.t = (self.epoch, self.t + 1) if self.t + 1 < len(self) else (self.epoch + 1, 0)
            yield batch

    def close(self) -> None:
        """Stop the workers. The loader can be used again; it starts new ones."""
        if (iterator := self._loader._iterator) is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "t": self.t}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.t = state["epoch"], state["t"]
        self._resumed = True


def _start_worker(environment: dict[str, str], _worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; the main one decides, and may still want a few batches."""
    os.environ.update(environment)  # the server that workers come from may have been started under another one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
    threading.Thread(target=_leave_with_main, daemon=True).start()


def _leave_with_main() -> None:
    """End this worker when the training process is gone: one that is killed cannot say so, and its server lives on."""
    if (main := multiprocessing.parent_process()) is not None:
        main.join()
    os._exit(1)
