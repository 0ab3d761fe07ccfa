"""What a reader knows of its program's settings: each key, with what our networks can express.

A key that a reader does not know may change the logits, so it is an error, as is a value that cannot be expressed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from nlnet.errors import UserError, nearest


@dataclass(frozen=True)
class Key:
    """A key of a program's configuration: `default` is what the program takes where a file leaves it out."""

    kind: str
    default: Any = None
    values: Sequence[Any] | None = None
    """Those that can be expressed; None: any, as far as this table goes."""


Keys = Mapping[str, Union[Key, "Keys"]]
"""By name; a section has keys of its own, and may be missing, or None."""


def converted(default: Any) -> Key:
    """The reader turns it into an argument of ours."""
    return Key("converted", default)


def in_weights(default: Any = None) -> Key:
    """The names and shapes of the weights say it, and another network than the one they fit is refused."""
    return Key("in the weights", default)


def without_effect(default: Any = None) -> Key:
    """It changes no logits of a trained network: initialization, training, input, what is done with the logits."""
    return Key("without effect", default)


def only(*values: Any) -> Key:
    """The values that our networks have, the program's default first; another one is refused."""
    return Key("only", values[0], values)


def settle(given: object, keys: Keys, where: str, name: str = "") -> dict[str, Any]:
    """All settings: those given, and the program's defaults for the rest. Lists become tuples.

    Args:
        given: a mapping as a file has it; None for none.
        keys: what the reader knows.
        where: the file, as messages begin.
        name: of the section that `given` is, such as "model.backbone".

    Raises UserError for a key that is not in `keys`, and for a value that cannot be expressed.
    """
    if not isinstance(given, Mapping | None):
        raise UserError(f"{where}: {name}={_shown(given)}: expected a section of settings")
    settings = {str(key): value for key, value in (given or {}).items()}
    start = f"{name}." if name else ""
    for key, value in settings.items():
        if key not in keys:
            raise UserError(
                f"{where}: {start}{key}={_shown(value)}: a setting that is not known here ({nearest(key, keys)}); if it"
                " does not change the network's output, take it out of a copy of the configuration and give that"
            )
    settled: dict[str, Any] = {}
    for key, known in keys.items():
        if isinstance(known, Mapping):
            settled[key] = settle(settings.get(key), known, where, f"{start}{key}")
        else:
            settled[key] = _value(settings.get(key, known.default), known, where, f"{start}{key}")
    return settled


def _value(value: Any, key: Key, where: str, name: str) -> Any:
    value = plain(value)
    if key.values is not None and value not in key.values:
        raise UserError(
            f"{where}: {name}={_shown(value)} changes the network's output and cannot be converted; only"
            f" {' or '.join(map(_shown, key.values))} can"
        )
    return value


def plain(value: Any) -> Any:
    """`value` with tuples for lists, at any depth."""
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
