"""How a network is executed on its device: compiled, laid out, recomputed, sharded; and what does not go together."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import StrategyRegistry
from torch import nn

from nlnet.config.instantiate import instantiate
from nlnet.errors import UserError, nearest
from nlnet.models.frozen import FrozenBatchNorm3d
from nlnet.models.memory.channels_last import to_channels_last
from nlnet.models.memory.recomputing import recompute_stages
from nlnet.runs.callbacks.precise_bn import PreciseBatchNorm
from nlnet.runs.sharding.strategy import ShardedStrategy
from nlnet.tasks.task import Task

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def arrange(task: Task, cfg: DictConfig) -> None:
    """Arrange the network of `task` as `compile`, `channels_last` and `checkpoint_stages` say, in place.

    The names of its parameters stay. Raises UserError for a stage that it does not have.
    """
    recompute_stages(task.net, cfg.get("checkpoint_stages") or ())
    if cfg.get("channels_last"):
        to_channels_last(task.net)
    if cfg.get("compile"):
        # Without such a guard a hook that an evaluation adds to a network that ran before would never be called.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        task.called_modules[0].compile()


def check_devices(trainer: Mapping[str, Any]) -> None:
    """Raises UserError for devices, a strategy or a precision of these settings that are not to be had here.

    It looks before anything is made. Accelerators other than GPUs are left to Lightning.
    """
    accelerator, strategy = str(trainer.get("accelerator", "auto")), trainer.get("strategy", "auto")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if accelerator == "mps" and not mps:
        raise UserError("trainer.accelerator=mps: PyTorch finds no GPU of Apple's here; trainer=cpu, or trainer=gpu")
    if accelerator in ("gpu", "cuda") and not (cuda or (mps and accelerator == "gpu")):
        raise UserError(
            f"trainer.accelerator={accelerator}: PyTorch {torch.__version__} finds no GPU here; see that nvidia-smi"
            " lists one and that PyTorch is built for it, or set trainer=cpu"
        )
    devices = trainer.get("devices", 1)
    if cuda and accelerator != "cpu" and type(devices) is int and devices > torch.cuda.device_count():
        raise UserError(f"trainer.devices={devices}: there are {torch.cuda.device_count()} GPUs here; lower it")
    if isinstance(strategy, str):
        _check_strategy(strategy)
    precision = str(trainer.get("precision", 32))
    if precision in ("16", "16-mixed", "16-true") and not (cuda or mps) and accelerator == "auto":
        raise UserError(f"trainer.precision={precision}: float16 needs a GPU, and there is none; take bf16-mixed or 32")
    if precision.startswith("transformer-engine"):
        _check_package("transformer_engine", f"trainer.precision={precision}", "bf16-mixed")


def _check_strategy(strategy: str) -> None:
    known = ["auto", *StrategyRegistry.available_strategies()]
    if strategy not in known:
        raise UserError(f"trainer.strategy={strategy}: there is no such strategy; {nearest(strategy, known)}")
    if strategy.startswith("deepspeed"):
        _check_package("deepspeed", f"trainer.strategy={strategy}", "trainer=fsdp")


def _check_package(package: str, key: str, other: str) -> None:
    if find_spec(package) is None:
        raise UserError(
            f"{key}: needs the package {package}, which is not installed here; pip install {package}, or {other}"
        )


def check_execution(task: Task, cfg: DictConfig, trainer: pl.Trainer) -> None:
    """Raises UserError for what cannot be executed so on the trainer's device."""
    device = trainer.strategy.root_device
    if isinstance(trainer.strategy, ShardedStrategy):
        _check_sharded(cfg, trainer)
    if cfg.get("compile"):
        _check_compiler(device)
    if cfg.trainer.get("sync_batchnorm"):
        _check_synchronized(task.net, device, trainer.world_size)
    optimizer = cfg.optim.optimizer
    if cfg.get("train", True) and optimizer.get("fused"):
        _check_fused(cfg, device)


def _check_sharded(cfg: DictConfig, trainer: pl.Trainer) -> None:
    if cfg.get("channels_last"):
        raise UserError("channels_last=true: FSDP cuts parameters that are contiguous; leave it out with trainer=fsdp")
    if cfg.get("compile"):
        raise UserError(
            "compile=true: PyTorch's compiler does not take networks whose blocks are gathered as they run; leave it"
            " out with trainer=fsdp"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging | PreciseBatchNorm):
            raise UserError(
                f"{type(callback).__name__} works with whole networks, and trainer=fsdp has parts of them on each"
                " rank; leave the callback out, or train with trainer=ddp"
            )


def _check_compiler(device: torch.device) -> None:
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of the compiler, in any of its parts
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"compile=true: nothing can be compiled for {device.type} here: {cause}; install a C++ compiler (on a GPU"
            " also triton), or set compile=false"
        ) from error


def _check_synchronized(net: nn.Module, device: torch.device, ranks: int) -> None:
    if device.type == "cpu" and ranks > 1:
        raise UserError(
            "trainer.sync_batchnorm=true: PyTorch synchronizes batch norms on GPUs only; leave it out on a CPU"
        )
    if any(isinstance(module, FrozenBatchNorm3d) for module in net.modules()):
        raise UserError(
            "trainer.sync_batchnorm=true: the norms of this network are frozen (model.norm), and synchronized ones"
            " would learn again; leave it out"
        )
    if not any(isinstance(module, _BATCH_NORM) for module in net.modules()):
        raise UserError("trainer.sync_batchnorm=true: this network has no batch norms to synchronize; leave it out")


def _check_fused(cfg: DictConfig, device: torch.device) -> None:
    name = str(cfg.optim.optimizer._target_).rpartition(".")[2]
    make: Any = instantiate(cfg.optim.optimizer, cfg.extras.allow_targets)
    try:
        make([torch.zeros(1, device=device, requires_grad=True)])
    except (RuntimeError, TypeError, ValueError) as error:
        cause = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"optim.optimizer.fused=true: {name} has no fused form on {device.type}: {cause}; leave it out"
        ) from error
    if cfg.trainer.get("gradient_clip_val") and str(cfg.trainer.precision) in ("16-mixed", "bf16-mixed", "16", "bf16"):
        raise UserError(
            f"optim.optimizer.fused=true and trainer.gradient_clip_val={cfg.trainer.gradient_clip_val}: under"
            f" trainer.precision={cfg.trainer.precision} Lightning clips no gradients of a fused optimizer; leave one"
            " of them out"
        )
