"""The values of a manifest, each of its type: a file may hold anything that JSON can say."""

import math
from typing import Any

MAX_TEXT = 4096  # characters of a key, a class, a name
MAX_INT = 1 << 62


def typed(value: Any, kind: type, what: str) -> Any:
    """`value`, if it is a `kind`: an `int` is no boolean and nothing with a fraction, a `float` may be an int.

    Raises ValueError, also for a number that is not finite, a whole one of more than 62 bits, and a text of more than
    4096 characters.
    """
    right = type(value) in (int, float) if kind is float else type(value) is kind
    if not right:
        raise ValueError(f"{what} is {_shown(value)}, not {_WORDS[kind]}")
    if type(value) is int and abs(value) > MAX_INT:
        raise ValueError(f"{what} is a whole number of {abs(value).bit_length()} bits, more than 62")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{what} is {value}, not a finite number")
    if kind is str and len(value) > MAX_TEXT:
        raise ValueError(f"{what} is a text of {len(value)} characters, more than {MAX_TEXT}")
    return float(value) if kind is float else value


def row(values: Any, kinds: dict[str, type], what: str) -> list[Any]:
    """The values of a list with one for each name of `kinds`, each of its type. Raises ValueError."""
    typed(values, list, what)
    if len(values) != len(kinds):
        raise ValueError(f"{what} has {len(values)} values, not {len(kinds)} ({', '.join(kinds)})")
    return [typed(value, kind, f"{what}: {name}") for value, (name, kind) in zip(values, kinds.items(), strict=True)]


def time_table(values: Any, frames: int, what: str) -> tuple[int, ...]:
    """The table of nlnet.data.media.times.Times for a video of so many frames. Raises ValueError."""
    typed(values, list, what)
    if len(values) not in (3, frames + 2):
        raise ValueError(f"{what}: {len(values)} numbers, not 3 or {frames + 2}")
    num, den, start, *steps = (typed(value, int, what) for value in values)
    if min(num, den, *steps, 1) < 0 or 0 in (num, den) or num * (abs(start) + sum(steps)) > MAX_INT:
        raise ValueError(f"{what}: they go back, or beyond {MAX_INT}")
    return num, den, start, *steps


_WORDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def _shown(value: Any) -> str:
    if isinstance(value, str | int | float) or value is None:
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}..."
    return f"a {type(value).__name__}"
