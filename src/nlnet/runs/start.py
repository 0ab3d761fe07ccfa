"""How every run starts, training or evaluation: quiet, seeded, with its data, its task and its folder."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from nlnet.config.instantiate import import_modules
from nlnet.distributed import print_once
from nlnet.runs.build import make_data, make_task
from nlnet.runs.callbacks.sample_counter import SampleCounter
from nlnet.runs.quiet import quiet
from nlnet.runs.record import RunRecord
from nlnet.runs.run_dir import create, with_run_dir
from nlnet.tasks.task import Task


@dataclass(frozen=True)
class Run:
    """What a run is made of before its trainer; `cfg` is the configuration in force, with the run's folder."""

    cfg: DictConfig
    folder: Path
    data: Any
    task: Task
    counter: SampleCounter
    record: RunRecord


def start(cfg: DictConfig) -> Run:
    """Make data and task as `cfg` says, print what the network is, and make the run's folder with its record."""
    started = time.monotonic()
    quiet(keep_log=bool(cfg.trainer.get("profiler")))
    if cfg.extras.threads:
        torch.set_num_threads(cfg.extras.threads)
    import_modules(cfg.extras.get("imports", ()), cfg.extras.allow_targets)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    cfg = with_run_dir(cfg)
    data = make_data(cfg)
    task = make_task(cfg, data)
    for line in task.model_summary(data):
        print_once(line)
    folder = Path(cfg.paths.run_dir)
    create(folder)
    counter = SampleCounter(data.max_skipped, data.max_consecutive_failures)
    record = RunRecord(folder, cfg, counter, task, started)
    record.begin()
    record.save_config()
    return Run(cfg, folder, data, task, counter, record)
