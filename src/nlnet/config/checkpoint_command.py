"""The configuration of a command that looks at one source with the network of one checkpoint."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from nlnet.config.compose import compose
from nlnet.config.words import quoted_path
from nlnet.errors import UserError

_PATHS = ("ckpt_path", "source", "out", "classes")


def checkpoint_command(overrides: Sequence[str], config_name: str, usage: str) -> DictConfig:
    """`config_name` with these overrides. Raises UserError for unknown keys, and with `usage` for what is missing."""
    cfg = compose([quoted_path(override, _PATHS) for override in overrides], config_name)
    for key in ("ckpt_path", "source"):
        if OmegaConf.is_missing(cfg, key):
            raise UserError(f"{key} is missing", *usage.splitlines())
    return cfg
