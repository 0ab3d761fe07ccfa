"""The one place where a name in a configuration becomes an object."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import hydra.utils
from omegaconf import DictConfig, ListConfig

from nlnet.errors import UserError

ALLOWED = ("nlnet", "torch.optim", "torch.nn", "torchvision", "torchmetrics", "pytorch_lightning")


def instantiate(node: Any, allow: Sequence[str] = (), **kwargs: Any) -> Any:
    """`hydra.utils.instantiate` for targets of the packages in `ALLOWED` and `allow`, and of no others.

    A configuration is data; without the list it could call anything that can be imported.
    """
    for key, target in _targets(node, ""):
        check_allowed(key, target, allow)
    try:
        return hydra.utils.instantiate(node, **kwargs)
    except hydra.errors.InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(f"{getattr(node, '_target_', node)}: {_last_lines(error)}") from error


def allowed_class(key: str, target: str, allow: Sequence[str] = ()) -> type:
    """The class `target`, which `key` names. Raises UserError where it is not allowed, or not there."""
    check_allowed(key, target, allow)
    try:
        return hydra.utils.get_class(target)
    except (ImportError, ValueError) as error:
        raise UserError(f"{key}={target}: {str(error).splitlines()[0]}") from error


def allowed_function(key: str, target: str, allow: Sequence[str] = ()) -> Callable[..., Any]:
    """The function `target`, which `key` names. Raises UserError where it is not allowed, or not there."""
    check_allowed(key, target, allow)
    try:
        return hydra.utils.get_method(target)
    except (ImportError, ValueError) as error:
        raise UserError(f"{key}={target}: {str(error).splitlines()[0]}") from error


def import_modules(names: Sequence[str], allow: Sequence[str] = ()) -> None:
    """Import modules of the user's own, such as one that registers a pairwise function.

    Raises UserError where one is not of an allowed package, or not there.
    """
    for name in names:
        check_allowed("extras.imports", name, allow)
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f"extras.imports: {name} cannot be imported: {error}; is it installed here?") from error


def check_allowed(key: str, target: str, allow: Sequence[str] = ()) -> None:
    """Raises UserError unless `target` is in one of the packages in `ALLOWED` and `allow`."""
    if not any(target == name or target.startswith(f"{name}.") for name in (*ALLOWED, *allow)):
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
