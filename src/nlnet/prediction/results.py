"""The outcome of a prediction: every input looked at or named with its cause, and the JSON file of them all."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from omegaconf import DictConfig

from nlnet.errors import UserError
from nlnet.saving import write_json
from nlnet.text import masked, say


class Named(Protocol):
    """An input by its name."""

    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)


@dataclass(frozen=True)
class Found:
    """The records of the inputs that could be read, and name, cause and message of the others."""

    records: list[dict[str, Any]]
    failures: list[dict[str, str]]


def each_input(
    cfg: DictConfig,
    inputs: Iterable[NamedT],
    what: str,
    look: Callable[[NamedT], dict[str, Any]],
    unreadable: tuple[type[Exception], ...],
) -> Found:
    """`look` at each of the first `cfg.limit` inputs; those that raise one of `unreadable` are named at the end.

    Raises UserError if no input can be read.
    """
    found = Found([], [])
    for item in islice(inputs, cfg.limit):
        try:
            found.records.append(look(item))
        except unreadable as error:
            cause = getattr(error, "cause", "unreadable")
            found.failures.append({"name": item.name, "cause": cause, "message": str(error)})
    if found.failures:
        named = ", ".join(f"{failure['name']} ({failure['cause']})" for failure in found.failures)
        total = len(found.records) + len(found.failures)
        say(f"{len(found.failures)} of {total} {what}s could not be read: {named}", error=True)
    if not found.records:
        why = f"; {found.failures[0]['name']}: {found.failures[0]['message']}" if found.failures else ""
        raise UserError(f"source={cfg.source}: no {what} could be read{why}")
    return found


def not_finite(cfg: DictConfig, name: str) -> UserError:
    """What is said instead of scores that are none; the weights are at fault, so nothing is written."""
    return UserError(
        f"ckpt_path={cfg.ckpt_path}: what the network says of {name} is not finite; its weights are spoiled, take those"
        " of an earlier step"
    )


def write_results(cfg: DictConfig, found: Found, kind: str, name: str, more: str = "") -> dict[str, Any]:
    """Write the records under `name`, and the failures, to `cfg.out`; returns what was written."""
    result: dict[str, Any] = {"checkpoint": str(cfg.ckpt_path), "source": masked(str(cfg.source)), "kind": kind}
    result |= {name: found.records, "failures": masked(found.failures)}
    out = Path(cfg.out)
    with suppress(OSError):  # what writing says of a folder that cannot be made is enough
        out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    say(f"written: {out}{more}")
    return result
