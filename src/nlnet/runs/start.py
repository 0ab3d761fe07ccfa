"""How every run starts, training or evaluation: quiet, seeded, with its data, its task and its folder."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from nlnet.config.instantiate import import_modules
from nlnet.distributed import is_first, print_once
from nlnet.runs.build import make_data, make_task
from nlnet.runs.callbacks.performance import Performance
from nlnet.runs.callbacks.sample_counter import SampleCounter
from nlnet.runs.durability.run_lock import RunLock
from nlnet.runs.execution import arrange
from nlnet.runs.file_names import RECORD
from nlnet.runs.quiet import quiet
from nlnet.runs.record import RunRecord
from nlnet.runs.run_dir import create, may_be_restarted
from nlnet.tasks.task import Task

_RESTART_WAIT_S = 60
"""For how long a job that was started again waits for its processes of before."""


@dataclass(frozen=True)
class Run:
    """What a run is made of before its trainer; `cfg` is the configuration in force, with the run's folder."""

    cfg: DictConfig
    folder: Path
    data: Any
    task: Task
    counter: SampleCounter
    performance: Performance
    record: RunRecord
    lock: RunLock
    new: bool
    """Whether no run was in the folder before."""


def start(cfg: DictConfig, weights: Mapping[str, Any] | None = None) -> Run:
    """Make data and task as `cfg` says, print what the network is, and begin the record in the run's folder.

    `cfg` has the folder already: see `nlnet.runs.continuing.which.run_folder`. `weights` are those that the network
    will get, by its names, where `cfg` is from a file: see `make_task`.
    """
    started = time.monotonic()
    quiet(keep_log=bool(cfg.trainer.get("profiler")))
    if cfg.extras.threads:
        torch.set_num_threads(cfg.extras.threads)
    import_modules(cfg.extras.get("imports", ()), cfg.extras.allow_targets)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = make_data(cfg)
    task = make_task(cfg, data, weights)
    described, costs = task.model_summary(data)
    arrange(task, cfg)
    for line in (*data.remarks, *described):
        print_once(line)
    folder = Path(cfg.paths.run_dir)
    new = not (folder / RECORD).exists()
    if is_first():  # the others' may be named otherwise, on a machine of its own
        create(folder)
    lock = RunLock(folder, wait_s=_RESTART_WAIT_S if may_be_restarted(os.environ) else 0)
    try:
        counter = SampleCounter(data.max_skipped, data.max_consecutive_failures)
        performance = Performance(costs.get("gmacs"))
        record = RunRecord(folder, cfg, [counter, performance], task, started, costs)
        record.begin()
    except BaseException:
        lock.release()
        raise
    return Run(cfg, folder, data, task, counter, performance, record, lock, new)
