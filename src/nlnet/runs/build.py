"""From a configuration to the objects of a run: data, task, trainer."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import get_object
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.plugins.io import CheckpointIO

from nlnet.checkpoints.mismatch import OF_RUN, check_outline
from nlnet.config.demo import stand_in
from nlnet.config.instantiate import instantiate
from nlnet.config.resolve import changed, without
from nlnet.data.synthetic.make import ensure
from nlnet.distributed import print_once
from nlnet.optim.learning_rate import scaled_rate
from nlnet.runs.callbacks.precise_bn import PreciseBatchNorm
from nlnet.tasks.task import Task, less_is_better
from nlnet.text import masked
from nlnet.trust.schema import NETWORKS
from nlnet.trust.targets import accepts


def plain_settings(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as it is written down: plain values, every interpolation resolved, every secret masked."""
    return masked(OmegaConf.to_container(cfg, resolve=True))


def make_data(cfg: DictConfig) -> Any:
    """The data module; a demo's clips or images are made first where they are not there yet."""
    if cfg.demo and not Path(cfg.data.shards).is_dir():
        ensure(Path(cfg.paths.data_dir), stand_in(cfg), print_once)
    return instantiate(without(without(cfg.data, "shards_variable"), "stand_in"), cfg.extras.allow_targets)


def task_class(cfg: DictConfig) -> type[Task]:
    """The class of the run's task, which says what it needs before there is one."""
    made = instantiate(cfg.task, cfg.extras.allow_targets, _partial_=True)
    return made.func


def make_task(cfg: DictConfig, data: Any, weights: Mapping[str, Any] | None = None) -> Task:
    """The task with its network, sized for the data, with the weights that a new run starts with.

    A network of ours takes memory only after `weights`, which it will get, were found to be its own.
    """
    allow = cfg.extras.allow_targets
    # Called here, not by Hydra, which would instantiate the targets within `settings` as well.
    make = instantiate(cfg.task, allow, _partial_=True)
    kind: type[Task] = make.func
    kind.check_kind(cfg.task.kind, data)
    network = partial(instantiate, _network_settings(cfg.model), allow, **kind.network_arguments(data))
    if weights is not None and cfg.model._target_ in NETWORKS:
        check_outline(network, weights, f"ckpt_path={cfg.ckpt_path}", network="this network", advice=OF_RUN)
    net = network()
    kind.check(net, data)
    if not cfg.ckpt_path and cfg.get("init"):  # a checkpoint that is loaded afterwards has them all
        for line in kind.initial_weights(net, cfg.init, cfg.model):
            print_once(line)
    optim = cfg.optim
    batch_size = cfg.data.get("batch_size", 1)
    rate = {"lr": scaled_rate(optim.optimizer.lr, batch_size, optim.get("lr_batch"))} if "lr" in optim.optimizer else {}
    return make(
        net=net,
        **kind.data_arguments(data),
        optimizer=instantiate(_known_arguments(optim.optimizer), allow, **rate),
        schedule=instantiate(optim.schedule, allow),
        no_weight_decay=optim.get("no_weight_decay", "norms_and_biases"),
        bias_lr_factor=optim.get("bias_lr_factor", 1.0),
        settings=plain_settings(cfg),
    )


def make_trainer(
    cfg: DictConfig,
    callbacks: Sequence[pl.Callback] = (),
    checkpoint_io: CheckpointIO | None = None,
    *,
    last: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """The trainer with the configured callbacks and loggers besides the given ones, which are called before and `last`.

    `checkpoint_io` writes its checkpoints, unless the configuration or the strategy brings a way of its own.
    """
    allow = cfg.extras.allow_targets
    configured = [instantiate(_with_mode(node), allow) for node in (cfg.get("callbacks") or {}).values() if node]
    loggers = [instantiate(node, allow) for node in (cfg.get("logger") or {}).values() if node]
    if not loggers:  # the monitor refuses to run without one; metrics.csv has the rate in any case
        configured = [callback for callback in configured if not isinstance(callback, LearningRateMonitor)]
    # Statistics are estimated before the last checkpoint is written, so theirs is the first callback of all.
    first = [callback for callback in configured if isinstance(callback, PreciseBatchNorm)]
    others = [callback for callback in configured if not isinstance(callback, PreciseBatchNorm)]
    options: dict[str, Any] = {"callbacks": [*first, *callbacks, *others, *last], "logger": loggers or False}
    if cfg.trainer.get("default_root_dir") is None:  # of an evaluation, whose file says nothing of places
        options["default_root_dir"] = cfg.paths.run_dir
    if (cfg.get("callbacks") or {}).get("progress", "") is None:  # nor Lightning's own bar, then
        options["enable_progress_bar"] = False
    trainer = instantiate(cfg.trainer, allow, **options)
    if checkpoint_io and type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = checkpoint_io
    return trainer


def _with_mode(node: DictConfig) -> DictConfig:
    """A callback that keeps or stops by a metric, with whether less of it is better, where it is not said."""
    monitors = str(node.get("_target_")).rpartition(".")[2] in ("ModelCheckpoint", "EarlyStopping")
    if not monitors or not isinstance(node.get("monitor"), str) or node.get("mode") is not None:
        return node
    return changed(node, {"mode": "min" if less_is_better(node.monitor) else "max"})


def _known_arguments(optimizer: DictConfig) -> DictConfig:
    """`optimizer`, without `fused` where it is left to PyTorch: not every optimizer has it."""
    return without(optimizer, "fused") if optimizer.get("fused", False) is None else optimizer


def _network_settings(model: DictConfig) -> DictConfig:
    """`model`, without `dropout` where the network has none: debug=overfit turns it off in any network."""
    if "dropout" not in model:
        return model
    return model if accepts(get_object(model._target_), "dropout") else without(model, "dropout")
