"""The one place where a name in a configuration becomes an object."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra.utils
from omegaconf import DictConfig, ListConfig

from nlnet.errors import UserError
from nlnet.trust.schema import CLASSES
from nlnet.trust.targets import find_target, is_within

ALLOWED = ("nlnet", "torch.optim", "torch.nn", "torchvision", "torchmetrics", "pytorch_lightning")

_FUNCTIONS = {target for targets in CLASSES.values() for target in targets} | {"nlnet.models.build.build_model"}
_FUNCTIONS_OF = ("torch.nn.functional", "torchmetrics.functional", "torchvision.models")
"""Where functions may be named besides classes; of all else only those in `CLASSES`, and the user's own packages."""


def instantiate(node: Any, allow: Sequence[str] = (), **kwargs: Any) -> Any:
    """`hydra.utils.instantiate` for targets of the packages in `ALLOWED` and `allow`, and of no others.

    Even what a user types is often somebody's file: a target is a class, or a function meant for it, and is defined
    in its package; what a module has imported from elsewhere is not reached through it.
    """
    for key, target in _targets(node, ""):
        find_allowed(key, target, allow)
    try:
        return hydra.utils.instantiate(node, **kwargs)
    except hydra.errors.InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(f"{getattr(node, '_target_', node)}: {_last_lines(error)}") from error


def find_allowed(key: str, target: str, allow: Sequence[str] = ()) -> Callable[..., Any]:
    """The class or function `target`, which `key` names. Raises UserError where it is not allowed, or not there."""
    check_allowed(key, target, allow)
    see_working_folder(allow)
    found = find_target(target, (*ALLOWED, *allow), key)
    meant = f"{found.__module__}.{found.__name__}" in _FUNCTIONS or target in _FUNCTIONS
    meant = meant or is_within(target, allow) or is_within(found.__module__, _FUNCTIONS_OF)
    if not meant and not inspect.isclass(found):
        raise UserError(f"{key}={target}: a function that configurations do not call; name a class, or one of your own")
    return found


def import_modules(names: Sequence[str], allow: Sequence[str] = ()) -> None:
    """Import modules of the user's own, such as one that registers a pairwise function.

    Raises UserError where one is not of an allowed package, or not there.
    """
    see_working_folder(allow)
    for name in names:
        check_allowed("extras.imports", name, allow)
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f"extras.imports: {name} cannot be imported: {error}; is it installed here?") from error


def see_working_folder(packages: Sequence[str]) -> None:
    """Let modules of the working folder be found where the user has named them; what is installed comes first."""
    here = str(Path.cwd())
    for package in {name.partition(".")[0] for name in packages}:
        there = Path(here, package).is_dir() or Path(here, f"{package}.py").is_file()
        if there and here not in sys.path and find_spec(package) is None:
            sys.path.append(here)


def check_allowed(key: str, target: str, allow: Sequence[str] = ()) -> None:
    """Raises UserError unless `target` is in one of the packages in `ALLOWED` and `allow`."""
    if not is_within(target, (*ALLOWED, *allow)):
        raise UserError(
            f"{key}={target}: not in a package that configurations may use ({', '.join((*ALLOWED, *allow))});"
            f" add yours with extras.allow_targets=[{target.split('.')[0]}]"
        )


def _targets(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, DictConfig):
        if isinstance(node.get("_target_"), str):
            yield f"{prefix}_target_", node["_target_"]
        for key in node:
            yield from _targets(node[key], f"{prefix}{key!s}.")
    elif isinstance(node, ListConfig):
        for position, value in enumerate(node):
            yield from _targets(value, f"{prefix}{position}.")


def _last_lines(error: Exception) -> str:
    """Hydra's message without its traceback-like preamble: the cause and the full key."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join([repr(error.__cause__) if error.__cause__ else "", *lines[-1:]]).strip()
