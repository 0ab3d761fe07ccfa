"""The options that networks and detectors have in common: what is one of a few words, and what blocks are made with."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nlnet.errors import UserError, nearest
from nlnet.layers import NonLocalBlock


def check_one_of(what: str, value: object, known: Collection[object]) -> None:
    """Raises UserError, with the names most like it, unless `value` of the option `what` is one of `known`."""
    if value not in known:
        names = [str(k) for k in known if k is not None]
        raise UserError(f"{what} {value!r} is unknown; {nearest(str(value), names)}.")


def block_options(nonlocal_options: Mapping[str, Any] | None, named_apart: Collection[str]) -> dict[str, Any]:
    """The further options of `NonLocalBlock` that are not None, which is the block's own choice.

    Args:
        nonlocal_options: by name.
        named_apart: arguments of `NonLocalBlock` that are given in another way.

    Raises UserError for an option that `NonLocalBlock` does not have, or that is named apart.
    """
    known = inspect.signature(NonLocalBlock).parameters.keys() - set(named_apart)
    for key in nonlocal_options or {}:
        if key not in known:
            raise UserError(f"nonlocal_options.{key}: non-local blocks have no such option; {nearest(key, known)}.")
    return {key: value for key, value in (nonlocal_options or {}).items() if value is not None}


@contextmanager
def naming_nonlocal_options() -> Iterator[None]:
    """Turns the ValueError of a `NonLocalBlock` that refuses its options into a UserError that says where they are."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"nonlocal_options: {error}") from error
