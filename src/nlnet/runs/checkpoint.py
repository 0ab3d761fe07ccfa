"""Reading a checkpoint safely, and saying early when it belongs to another network."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nlnet.errors import UserError


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU. Nothing in it is executed (`weights_only=True`)."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"ckpt_path={path}: there is no such file") from None
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"ckpt_path={path}: not a checkpoint that can be read: {first}") from error


def check_fits(checkpoint: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError where the checkpoint's tensors are not those of this network."""
    saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    problems = (
        [f"{name} is missing" for name in wanted if name not in saved]
        + [f"{name} is not in this network" for name in saved if name not in wanted]
        + [f"{n} is {saved[n]}, here {wanted[n]}" for n in wanted if n in saved and saved[n] != wanted[n]]
    )
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise UserError(
            f"ckpt_path={path}: made by another network ({shown}); give the model.* settings of its run"
            f" ({path.parent.parent / 'config.yaml'})"
        )


# What may differ between a run and its continuation without changing what is computed.
_FREE = (
    "callbacks",
    "ckpt_path",
    "data.allow_pipe",
    "data.cache_dir",
    "data.cache_gb",
    "data.num_workers",
    "data.parallel_reads",
    "data.read_ahead_mb",
    "data.read_timeout_s",
    "demo",
    "extras",
    "logger",
    "paths",
    "tags",
    "test",
    "train",
    "trainer.default_root_dir",
    "trainer.log_every_n_steps",
)


def differences(checkpoint: Mapping[str, Any], cfg: DictConfig) -> list[str]:
    """`key=new (was old)` for every setting that the checkpoint's run had otherwise."""
    old = _flat(checkpoint.get("hyper_parameters", {}), "")
    new = _flat(OmegaConf.to_container(cfg, resolve=True), "")
    return [
        f"{key}={new.get(key)} (was {old.get(key)})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    ]


def _flat(node: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix.rstrip("."): node}
    return {key: value for name in node for key, value in _flat(node[name], f"{prefix}{name}.").items()}
