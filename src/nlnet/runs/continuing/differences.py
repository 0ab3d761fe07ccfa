"""What a continued run has otherwise than the one that it continues."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nlnet.text import masked

HOW_READ = (
    "data.cache_dir",
    "data.cache_gb",
    "data.num_workers",
    "data.parallel_reads",
    "data.read_ahead_mb",
    "data.read_timeout_s",
    "data.worker_timeout_s",
    "group",
    "logger",
    "paths",
    "tags",
    "trainer.default_root_dir",
)
"""How data are read and where is written: nothing that is computed depends on it."""

# What else may differ between a run and its continuation without changing what is computed.
_FREE = (
    *HOW_READ,
    "callbacks",
    "ckpt_path",
    "data.allow_pipe",
    "demo",
    "extras",
    "test",
    "train",
    "trainer.log_every_n_steps",
    "typed",
)


LATER: Mapping[str, Any] = {
    "data.clips_per_video": 1,
    "optim.bias_lr_factor": 1.0,
    "optim.optimizer.fused": None,
    "optim.schedule.warmup_start": 0.0,
    "compile": False,
    "channels_last": False,
    "checkpoint_stages": [],
    "trainer.sync_batchnorm": False,
}
"""Settings that a checkpoint of an earlier version does not have -> what it was trained with."""


def differences(checkpoint: Mapping[str, Any], cfg: DictConfig) -> list[str]:
    """`key=new (was old)` for every setting that the checkpoint's run had otherwise."""
    new = flat(masked(OmegaConf.to_container(cfg, resolve=True)))
    before = {key: value for key, value in LATER.items() if key in new}
    old = before | flat(masked(checkpoint.get("hyper_parameters", {})))
    return [
        f"{key}={new.get(key)} (was {old.get(key)})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    ]


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted key."""
    if not isinstance(node, Mapping):
        return {prefix.rstrip("."): node}
    return {key: value for name in node for key, value in flat(node[name], f"{prefix}{name}.").items()}
