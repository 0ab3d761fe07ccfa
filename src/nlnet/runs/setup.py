"""From a configuration to the objects of a run: data, network, task, trainer."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from nlnet.data import synthetic
from nlnet.errors import UserError
from nlnet.runs.demo import has_shards
from nlnet.runs.identity import Identity, create, last_run_dir, new_run_dir, was_restarted
from nlnet.runs.instantiate import instantiate
from nlnet.runs.precise_bn import PreciseBatchNorm
from nlnet.runs.start import scaled_rate, start_weights
from nlnet.tasks.classification import check_kind

_RUN_DIR = "NLNET_RUN_DIR"
"""The environment variable by which a process tells the ranks that Lightning starts from it their folder."""


def identity_of(cfg: DictConfig) -> Identity:
    return Identity(cfg.task_name, cfg.experiment_name, cfg.demo)


def make_data(cfg: DictConfig) -> Any:
    """The data module of clips or images; a demo's are made first where they are not there yet."""
    if cfg.demo and not has_shards(cfg):
        cfg.data.shards = str(synthetic.ensure(Path(cfg.paths.data_dir), cfg.data.dataset, rank_zero_only(print)))
    settings = cfg.data.copy()
    with open_dict(settings):
        settings.pop("shards_variable", None)
    return instantiate(settings, cfg.extras.allow_targets)


def make_task(cfg: DictConfig, data: Any) -> Any:
    """The task with its network, sized for the classes of the data."""
    if cfg.task.kind == "detection":
        from nlnet.runs.detection import make_detection_task  # with torchvision, which clips do without

        return make_detection_task(cfg, data)
    check_kind(cfg.task.kind, data.train.task, data.shards)
    allow = cfg.extras.allow_targets
    # Called here, not by Hydra, which would instantiate the targets within `settings` as well.
    make = instantiate(cfg.task, allow, _partial_=True)
    net = instantiate(cfg.model, allow, num_classes=len(data.train.classes))
    for line in start_weights(net, cfg):
        rank_zero_only(print)(line, flush=True)
    return make(
        net=net,
        classes=list(data.train.classes),
        groups={name: list(classes) for name, classes in data.train.groups.items()},
        optimizer=instantiate(cfg.optim.optimizer, allow, **scaled_rate(cfg)),
        schedule=instantiate(cfg.optim.schedule, allow),
        undecayed=cfg.optim.undecayed,
        max_missing_eval=data.max_missing_eval,
        settings=OmegaConf.to_container(cfg, resolve=True),
    )


def make_run_dir(cfg: DictConfig) -> Path:
    """The folder of this run, made if need be; written to `cfg.paths.run_dir`. Every process gets the same one."""
    log_dir = Path(cfg.paths.log_dir).absolute()
    identity = identity_of(cfg)
    if handed_down := _handed_down():
        folder = handed_down
    elif cfg.paths.run_dir:
        folder = Path(cfg.paths.run_dir).absolute()
    elif cfg.ckpt_path == "last":
        folder = last_run_dir(identity, log_dir)
    else:
        folder = new_run_dir(identity, log_dir, job=_multirun_job(cfg), env=os.environ)
    create(folder)
    if not cfg.ckpt_path and was_restarted(os.environ) and (folder / "checkpoints" / "last.ckpt").is_file():
        cfg.ckpt_path = "last"  # a requeued job goes on where it was
    os.environ[_RUN_DIR] = f"{os.getpid()}:{folder}"
    cfg.paths.run_dir = str(folder)
    return folder


def _handed_down() -> Path | None:
    """The folder of the process that started this one as another rank of its run."""
    process, _, folder = os.environ.get(_RUN_DIR, "").partition(":")
    # Of another process it is a run before this one, whose environment a launcher has passed on.
    return Path(folder) if "LOCAL_RANK" in os.environ and process == str(os.getppid()) else None


def make_trainer(cfg: DictConfig, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    """The trainer with the configured callbacks and loggers besides the given ones."""
    allow = cfg.extras.allow_targets
    configured = [instantiate(node, allow) for node in (cfg.get("callbacks") or {}).values() if node]
    loggers = [instantiate(node, allow) for node in (cfg.get("logger") or {}).values() if node]
    if not loggers:  # the monitor refuses to run without one; metrics.csv has the rate in any case
        configured = [callback for callback in configured if not isinstance(callback, LearningRateMonitor)]
    # Statistics are estimated before the last checkpoint is written, so theirs is the first callback of all.
    first = [callback for callback in configured if isinstance(callback, PreciseBatchNorm)]
    others = [callback for callback in configured if not isinstance(callback, PreciseBatchNorm)]
    return instantiate(cfg.trainer, allow, callbacks=[*first, *callbacks, *others], logger=loggers or False)


def plain(value: Any) -> float | None:
    """A figure as a float, None where there is none."""
    return None if value is None else float(value)


def _multirun_job(cfg: DictConfig) -> str | None:
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    if "ddp" in str(cfg.trainer.strategy) and cfg.trainer.devices not in (1, "1"):
        raise UserError(
            f"trainer.strategy={cfg.trainer.strategy} starts its processes by running the command line again, which"
            " in a multirun (-m) would be the whole sweep; start the points one by one, or with torchrun"
        )
    return str(HydraConfig.get().job.num)
