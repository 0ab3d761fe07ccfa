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
_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'")


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
    if not isinstance(error, (HydraException, InterpolationResolutionError, MissingMandatoryValue, ValidationError)):
        return error
    text = str(error)
    if match := _OPTION.search(text):
        group, option = match[1], match[2]
        return UserError(f"{group}={option}: there is no such {group}; {nearest(option, options(group))}")
    if match := _KEY.search(text):
        key = match[1].lstrip("+~")
        others = {*keys(config_name), *groups()} - {key}
        return UserError(f"{key}: there is no such key in this configuration; {nearest(key, others)}")
    return UserError(*text.splitlines())


def options(group: str) -> list[str]:
    """The choices of a configuration group. A name that starts with `_` is a base of others, not a choice."""
    return sorted({path.stem for root in search_path() for path in (root / group).glob("[!_]*.yaml")})


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
