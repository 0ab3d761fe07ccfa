"""From the name in a checkpoint to the function or class of somebody's package, which must have been allowed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from nlnet.errors import UserError

_NOT_PLAIN = "only plain values are passed to its network; build it yourself"
_OF_HYDRA = ("_convert_", "_recursive_")  # without a meaning for plain values


def allowed_target(target: str, allow: Sequence[str], where: str) -> Callable[..., Any]:
    """The function or class `target`, defined in one of the packages `allow`.

    A checkpoint is data of unknown origin: without the list it could call anything that can be imported, and what a
    module has merely imported from elsewhere is not its own.

    Args:
        target: the dotted name, such as "mine.network.build".
        allow: names of packages or modules.
        where: the file, as the messages begin.

    Raises UserError if it is not in these packages, cannot be found, or is no function or class of theirs.
    """
    packages = [allow] if isinstance(allow, str) else list(allow)
    if not _is_within(target, packages):
        raise UserError(
            f"{where}: its network ({target}) is not one of nlnet.build_model's; if you trust that package, allow it"
            f" with allow_targets=[{target.partition('.')[0]}]"
        )
    found = _located(target, where)
    if not inspect.isclass(found) and not inspect.isfunction(found):
        raise UserError(f"{where}: its network {target} is a {type(found).__name__}, neither a function nor a class")
    if not _is_within(found.__module__, packages):
        raise UserError(
            f"{where}: its network {target} is defined in {found.__module__}, which is not in"
            f" allow_targets=[{', '.join(packages)}]"
        )
    return found


def plain_arguments(model: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments in the `model` settings of a run, without Hydra's own keys.

    Raises UserError for anything but None, numbers, texts, and lists and dictionaries of these.
    """
    _check_plain({key: value for key, value in model.items() if key != "_target_"}, "model", where)
    return {key: value for key, value in model.items() if key not in ("_target_", *_OF_HYDRA)}


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether `function`, or a class' constructor, takes an argument of this name."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _is_within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


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
            raise UserError(f"{where}: its network {target} cannot be found: there is no {name}")
    return found


def _module(name: str, target: str, where: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"{where}: its network {target} cannot be imported here: {error}; install the package that it is from"
        ) from error


def _check_plain(value: Any, key: str, where: str) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if str(name).startswith("_") and name not in _OF_HYDRA:
                raise UserError(f"{where}: {key}.{name} is set, and {_NOT_PLAIN}")
            _check_plain(inner, f"{key}.{name}", where)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_plain(inner, f"{key}.{index}", where)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(f"{where}: {key} is a {type(value).__name__}, and {_NOT_PLAIN}")
