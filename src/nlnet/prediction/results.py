"""The outcome of a prediction: every input looked at or named with its cause, and the JSON file of them all."""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from omegaconf import DictConfig

from nlnet.errors import UserError


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
        print(f"{len(found.failures)} of {total} {what}s could not be read: {named}", file=sys.stderr)
    if not found.records:
        raise UserError(f"source={cfg.source}: no {what} could be read")
    return found


def write_results(cfg: DictConfig, found: Found, kind: str, name: str, more: str = "") -> dict[str, Any]:
    """Write the records under `name`, and the failures, to `cfg.out`; returns what was written."""
    result = {"checkpoint": str(cfg.ckpt_path), "source": str(cfg.source), "kind": kind, name: found.records}
    result["failures"] = found.failures
    out = Path(cfg.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {out}{more}")
    return result
