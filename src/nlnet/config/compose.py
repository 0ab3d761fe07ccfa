"""Composing a configuration outside of the commands, and reading Hydra's errors for people."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, ValidationError

from nlnet.config.paths import config_dir
from nlnet.config.search_path import search_path, user_folders
from nlnet.errors import UserError, nearest

_KEY = re.compile(r"Could not (?:override|append to config|delete from config)[^']*'([^'=]+)")
_MISSING_KEY = re.compile(r"Key '([^']+)' is not in struct")
_EXISTS = re.compile(r"Could not append to config. An item is already at '([^']+)'")
_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'")

_PLUGINS = {
    ("hydra/sweeper", "optuna"): "hydra-optuna-sweeper",
    ("hydra/sweeper", "ax"): "hydra-ax-sweeper",
    ("hydra/sweeper", "nevergrad"): "hydra-nevergrad-sweeper",
    ("hydra/launcher", "joblib"): "hydra-joblib-launcher",
    ("hydra/launcher", "submitit"): "hydra-submitit-launcher, and hydra/launcher=submitit_slurm or submitit_local",
    ("hydra/launcher", "submitit_local"): "hydra-submitit-launcher",
    ("hydra/launcher", "submitit_slurm"): "hydra-submitit-launcher",
    ("hydra/launcher", "ray"): "hydra-ray-launcher",
    ("hydra/launcher", "rq"): "hydra-rq-launcher",
}
"""(group, option) of Hydra's plugins -> what to install."""


def compose(overrides: Sequence[str] = (), config_name: str = "train") -> DictConfig:
    """The configuration that a command line with these overrides would run with, in the user's folders, too.

    Raises UserError for unknown keys, groups and options, with the nearest names.
    """
    try:
        words = [*overrides, *_user_search_path()]
        if GlobalHydra.instance().is_initialized():
            return hydra_compose(config_name, overrides=words)
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return hydra_compose(config_name, overrides=words)
    except Exception as error:
        raise explain(error, config_name) from error


def explain(error: Exception, config_name: str = "train") -> Exception:
    """A UserError with the nearest names for one of Hydra's composition errors; any other error as it is."""
    if isinstance(error, ValueError) and "Config group override must be a string" in str(error):
        return UserError(f"a group is given a value that is none of its choices ({error}); type GROUP=NAME")
    if not isinstance(error, (HydraException, InterpolationResolutionError, MissingMandatoryValue, ValidationError)):
        return error
    text = str(error)
    if match := _OPTION.search(text):
        return _no_option(match[1], match[2])
    if match := _EXISTS.search(text):
        return UserError(f"+{match[1]}: {match[1]} exists, and + is for new keys: leave the + out")
    if match := _KEY.search(text):
        return no_key(match[1].lstrip("+~"), config_name)
    return UserError(" ".join(text.split()))


def no_key(key: str, config_name: str = "train") -> UserError:
    """The error for a key that the configuration does not have, with the nearest ones."""
    others = {*keys(config_name), *groups()} - {key}
    return UserError(f"{key}: there is no such key in this configuration; {nearest(key, others)}")


def _no_option(group: str, option: str) -> UserError:
    if plugin := _PLUGINS.get((group, option)):
        return UserError(f"{group}={option}: its plugin is not installed here; pip install {plugin}")
    names = options(group)
    known = nearest(option, names)
    if known.startswith("known"):  # not all of them: the user's own first
        own = [name for name in names if any((root / group / f"{name}.yaml").is_file() for root in user_folders())]
        known = f"known: {', '.join([*own, *(name for name in names if name not in own)][:20])}, ..."
    return UserError(f"{group}={option}: there is no such {group}; {known}")


def options(group: str) -> list[str]:
    """The choices of a configuration group. A name that starts with `_` is a base of others, not a choice."""
    below = "**/" if group == "experiment" else ""  # experiments may lie in folders; elsewhere these are groups
    folders = [root / group for root in search_path()]
    found = [path.relative_to(root) for root in folders for path in root.glob(f"{below}[!_]*.yaml")]
    return sorted({str(path.with_suffix("")) for path in found})


def groups() -> list[str]:
    """All configuration groups, `optim/schedule` among them."""
    return sorted({str(path.relative_to(root)) for root in search_path() for path in root.rglob("*") if path.is_dir()})


def keys(config_name: str = "train") -> list[str]:
    """All keys of the composed default configuration, dotted."""
    return list(_dotted(OmegaConf.to_container(compose(config_name=config_name)), ""))


def _user_search_path() -> list[str]:
    """The override that adds the user's folders to Hydra's search path, in quotes as paths may hold anything."""
    folders = [str(folder).replace("'", "\\'") for folder in user_folders()]
    quoted = ",".join(f"'file://{folder}'" for folder in folders)
    return [f"hydra.searchpath=[{quoted}]"] if folders else []


def _dotted(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")
