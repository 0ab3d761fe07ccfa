"""The points of a sweep: all combinations of a grid, or drawn from distributions, each with a name of its own."""

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from nlnet.config.words import as_hydra
from nlnet.errors import UserError
from nlnet.sweeps.sweep_file import Sweep

_MOST = 10_000
_LONGEST = 150  # characters of a name; file systems take 255 bytes


@dataclass(frozen=True)
class Point:
    """A point: its folder's name, which says what varies, and the words of its command line."""

    name: str
    words: tuple[str, ...]


def points(sweep: Sweep, count: int | None = None, seed: int = 0) -> list[Point]:
    """The points of a sweep, at most `count`, without repetitions.

    Point i of a random sweep depends on (seed, i) alone: a larger count continues the same points. Raises UserError.
    """
    count = count or sweep.run_cap
    if sweep.method == "grid":
        choices = [_values(key, how) for key, how in sweep.parameters.items()]
        if (size := math.prod(map(len, choices))) > _MOST:
            raise UserError(f"{sweep.name}: a grid of {size:,} points, at most {_MOST:,}; take method: random")
        drawn: Sequence[Sequence[Any]] = list(itertools.product(*choices))[:count]
    elif count is None:
        raise UserError(f"{sweep.name}: method: random has no end: give count=N, or run_cap in the file")
    else:
        drawn = [_draw(sweep, random.Random(f"{seed} {i}")) for i in range(min(count, _MOST))]
    varying = [key for key, how in sweep.parameters.items() if "value" not in how]
    found = [_point(dict(zip(sweep.parameters, values, strict=True)), varying, sweep.words) for values in drawn]
    return list({point.name: point for point in found}.values())


def _point(values: Mapping[str, Any], varying: Sequence[str], words: Sequence[str]) -> Point:
    own = tuple(f"{key}={as_hydra(value)}" for key, value in values.items())
    return Point(_name({key: values[key] for key in varying}, own), (*words, *own))


def _name(values: Mapping[str, Any], words: Sequence[str]) -> str:
    """`key=value,key=value`, with a digest of the words where that alone would not be a file's name or not unique."""
    whole = ",".join(f"{key}={value}" for key, value in values.items()) or "point"
    name = re.sub(r"[^\w.,=+-]+", "-", whole, flags=re.ASCII)[:_LONGEST]
    quoted = any(isinstance(value, str) and as_hydra(value) != value for value in values.values())  # "1", not 1
    return f"{name}-{sha256(' '.join(words).encode()).hexdigest()[:8]}" if quoted or name != whole else name


def _values(key: str, how: Mapping[str, Any]) -> list[Any]:
    if "value" in how:
        return [how["value"]]
    values = how.get("values")
    if not isinstance(values, list) or not values:
        raise UserError(f"parameters: {key}: a grid needs its values as a list; distributions are for method: random")
    return values


def _draw(sweep: Sweep, source: random.Random) -> list[Any]:
    return [_drawn(key, how, source) for key, how in sweep.parameters.items()]


def _drawn(key: str, how: Mapping[str, Any], source: random.Random) -> Any:
    try:
        if "value" in how:
            return how["value"]
        if "values" in how:
            return source.choices(how["values"], how.get("probabilities"))[0]
        whole = type(how.get("min")) is int and type(how.get("max")) is int
        return _DISTRIBUTIONS[how.get("distribution") or ("int_uniform" if whole else "uniform")](how, source)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"parameters: {key}: {dict(how)}: expected value, values, or min and max with a distribution of"
            f" {', '.join(_DISTRIBUTIONS)}"
        ) from error


def _uniform(how: Mapping[str, Any], source: random.Random) -> float:
    return source.uniform(float(how["min"]), float(how["max"]))


def _log_uniform(how: Mapping[str, Any], source: random.Random) -> float:
    return math.exp(source.uniform(math.log(how["min"]), math.log(how["max"])))


def _rounded(how: Mapping[str, Any], source: random.Random) -> float:
    step = how.get("q", 1)
    return round(_uniform(how, source) / step) * step


_DISTRIBUTIONS: dict[str, Callable[[Mapping[str, Any], random.Random], Any]] = {
    "uniform": _uniform,
    "int_uniform": lambda how, source: source.randint(how["min"], how["max"]),
    "log_uniform_values": _log_uniform,
    "q_uniform": _rounded,
    "normal": lambda how, source: source.gauss(how.get("mu", 0.0), how.get("sigma", 1.0)),
}
"""W&B's names."""
