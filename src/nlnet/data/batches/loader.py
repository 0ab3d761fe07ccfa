"""Hands out batches of shards one epoch at a time, with worker processes, and can be stopped and resumed anywhere."""

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from nlnet.data.batches.base import Batch, RankSlice, ShardBatches
from nlnet.data.batches.clips import ClipBatches, ClipSettings, read_video
from nlnet.data.batches.packing import Packed, check_open_files, unpack
from nlnet.data.batches.server import name_imports
from nlnet.data.batches.workers import TIMEOUT_S, WorkerWatch, packed_by_worker, report_to

__all__ = ["Batch", "BatchLoader", "ClipBatches", "ClipSettings", "RankSlice", "read_video"]

_GRACE_SECONDS = 30  # that a worker lives on after a SIGTERM


class _Positions(Sampler[tuple[int, int]]):
    """The rest of one epoch, `(epoch, t)` with t from `start`; the loader moves it on before every pass."""

    def __init__(self, length: int) -> None:
        self.epoch, self.start, self.length = 0, 0, length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, t) for t in range(self.start, self.length))


class BatchLoader:
    """Iterates over the batches of one epoch at a time and can be stopped and resumed between any two of them.

    `state_dict()` is the position of the batch that comes next, `{"epoch", "t"}`, equal on all ranks. A pass that is
    left early does not come back: the next one starts the next epoch. Whoever leaves every pass after so many batches
    says so with `per_epoch`: what comes after the last of them is then the next epoch. With `repeat_epoch` every pass
    is the first epoch, for overfitting a few batches on purpose. A batch's `reading["seconds"]` is how long it was
    waited for; for more than `worker_timeout_s`, or for a worker that is gone, UserError is raised.
    """

    def __init__(
        self,
        batches: ShardBatches[Any, Any],
        num_workers: int = 0,
        *,
        prefetch: int = 2,
        per_epoch: int | None = None,
        repeat_epoch: bool = False,
        worker_timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.batches, self.repeat_epoch = batches, repeat_epoch
        self.per_epoch = min(len(batches), per_epoch or len(batches))
        self.epoch, self.t = 0, 0
        self._resumed = False
        self._positions = _Positions(len(batches))
        workers: dict[str, Any] = {}
        errors, report = multiprocessing.Pipe(duplex=False)
        if num_workers > 0:
            check_open_files(num_workers, batches.settings.parallel)
            # A forked worker would hang in the object-store client, whose threads a fork does not copy.
            name_imports()
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            workers = {
                "multiprocessing_context": "forkserver",
                "prefetch_factor": prefetch,
                "persistent_workers": True,
                "worker_init_fn": partial(_start_worker, dict(os.environ), limits, report),
            }
        self._loader: DataLoader[Batch] = DataLoader(
            batches,
            batch_size=None,
            sampler=self._positions,
            num_workers=num_workers,
            collate_fn=packed_by_worker,
            # Its own generator: the base seed of the workers must not be drawn from the model's random numbers.
            generator=torch.Generator().manual_seed(0),
            **workers,
        )
        self._watched = WorkerWatch(self._loader, worker_timeout_s, errors) if num_workers > 0 else self._loader

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """One pass, which begins at the first `next`: a trainer makes an iterator just to see whether it can, before it
        has restored the position, and nothing must be read for that one."""
        if not self._resumed and (self.repeat_epoch or (self.batches.train and self.t)):
            self.epoch, self.t = self._next_epoch(self.epoch), 0
        self._resumed = False
        self._positions.epoch, self._positions.start = epoch, start = self.epoch, self.t
        began = time.perf_counter()
        for t, sent in enumerate(self._watched, start):
            batch = unpack(sent) if isinstance(sent, Packed) else sent
            batch["reading"]["seconds"] = time.perf_counter() - began
            if self.batches.train:
                # The position moves on before the batch is handed out, the epoch's end included: the trainer saves
                # while it holds the last batch and does not come back for a StopIteration.
                more = t + 1 < self.per_epoch
                self.epoch, self.t = (epoch, t + 1) if more else (self._next_epoch(epoch), 0)
            yield batch
            del batch, sent  # or its memory would be held until the next one is there
            began = time.perf_counter()

    def _next_epoch(self, epoch: int) -> int:
        return 0 if self.repeat_epoch else epoch + 1

    def close(self) -> None:
        """Stop the workers. The loader can be used again; it starts new ones."""
        self.batches.close()
        if (iterator := self._loader._iterator) is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "t": self.t}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a position that `state_dict` gave. Raises ValueError for what is none."""
        if not all(isinstance(state[name], int) and state[name] >= 0 for name in ("epoch", "t")):
            raise ValueError(f"epoch {state['epoch']!r}, t {state['t']!r} is no position in the data")
        self.epoch, self.t = 0 if self.repeat_epoch else state["epoch"], state["t"]
        self._resumed = True


def _start_worker(environment: dict[str, str], limits: tuple[int, int], errors: Connection, _worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; the main one decides, and may still want a few batches."""
    # The server that workers come from may have been started under other variables and limits.
    os.environ.update(environment)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
    report_to(errors)
    threading.Thread(target=_leave_with_main, daemon=True).start()


def _leave_with_main() -> None:
    """End this worker when the training process is gone: one that is killed cannot say so, and its server lives on."""
    if (main := multiprocessing.parent_process()) is not None:
        main.join()
    os._exit(1)
