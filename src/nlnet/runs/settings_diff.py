"""What a continued run has otherwise than the one that it continues."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

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
