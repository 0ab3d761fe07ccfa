"""From a name in a configuration or a checkpoint to a function or class, which must be defined where it says."""

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from nlnet.errors import UserError


def find_target(target: str, packages: Sequence[str], where: str) -> Callable[..., Any]:
    """The function or class `target`, defined in one of `packages`.

    What a module has merely imported from elsewhere is not its own: through `torchvision.datasets.utils.torch.load`
    everything could be reached that any module of an allowed package happens to use.

    Args:
        target: the dotted name, such as "mine.network.build".
        packages: names of packages or modules.
        where: the file or the key, as the messages begin.

    Raises UserError if it cannot be found, is no function or class, or is defined elsewhere.
    """
    found = _located(target, where)
    if not inspect.isclass(found) and not inspect.isfunction(found):
        raise UserError(f"{where}: {target} is a {type(found).__name__}, neither a function nor a class")
    if not is_within(found.__module__, packages):
        raise UserError(
            f"{where}: {target} is defined in {found.__module__}, which is not in {', '.join(packages)};"
            " give the name of its own module"
        )
    return found


def is_within(name: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name is one of `packages`, or in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether `function`, or a class' constructor, takes an argument of this name."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _located(target: str, where: str) -> Any:
    """What the dotted name stands for: modules are imported as far as they go, the rest are attributes."""
    first, *others = target.split(".")
    found, name = _module(first, target, where), first
    for part in others:
        name = f"{name}.{part}"
        if hasattr(found, part):
            found = getattr(found, part)
        elif inspect.ismodule(found):
            found = _module(name, target, where)
        else:
            raise UserError(f"{where}: {target} cannot be found: there is no {name}")
    return found


def _module(name: str, target: str, where: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, ValueError) as error:  # ValueError: an empty name, as in "mine..net"
        raise UserError(
            f"{where}: {target} cannot be imported here: {error}; install the package that it is from"
        ) from error
