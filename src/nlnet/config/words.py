"""What people type: the words of a command line as Hydra reads them, or one line that says how to type them."""

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from nlnet.config.compose import options
from nlnet.errors import UserError, nearest
from nlnet.renamed import current_overrides
from nlnet.text import say

FLAGS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r",
    "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--config-dir",
    "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip
"""Hydra's own."""

OPEN = ("model.block_options", "task.metrics")
"""Dictionaries whose keys are the user's. Hydra takes a new key only with a sign before it, and then anywhere: whether
the configuration has the dictionary is looked at when it is resolved."""

_TOP_GROUPS = ("data", "model", "task", "optim", "trainer", "paths", "extras", "size", "length", "callbacks", "logger")
_VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
           "--experimental-rerun")  # fmt: skip
_NONE = ("callbacks", "logger")
_ELSEWHERE = {"hydra.run.dir": "paths.run_dir"}
_WORDS = ("null", "true", "false", "nan", "inf")  # values of other types in Hydra's grammar
_OPTIONAL = ("debug", "experiment", "hparams_search", "local")


def read_words(words: Sequence[str]) -> list[str]:
    """The overrides of a command line with today's names, and as Hydra reads them.

    What other programs write is turned: `None` and Python's tuples and dictionaries, `callbacks=null`. Raises UserError
    for a word that cannot be read, with how to type it.
    """
    read = (_opened(_turned(part)) for word in current_overrides(words) for part in _parts(word))
    kept = [word for word in read if word.partition("=") not in [(group, "=", "null") for group in _OPTIONAL]]
    for word in kept:
        _check(word)
    return kept


def split_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides. Raises UserError for what is none, such as `--seed=1`."""
    flags: list[str] = []
    words: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if not argument.startswith("-"):
            words.append(argument)
        elif name in FLAGS:
            flags += [argument, *([next(rest, "")] if name in _VALUED and not equals else [])]
        else:
            raise _no_flag(argument)
    return flags, words


def split_places(words: Sequence[str], keys: Collection[str]) -> tuple[list[Path], dict[str, str]]:
    """Folders, and the values of KEY=VALUE words with one of these keys.

    Other words with `=` are folders, such as those of a sweep's points. Raises UserError where such a one is not there.
    """
    places, values = list[Path](), dict[str, str]()
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in keys:
            if not value:
                raise UserError(f"{word}: nothing is given; type {key}=VALUE")
            values[key] = value
        elif equals and "/" not in key and not Path(word).exists():
            raise UserError(f"{word}: neither a folder nor a setting of this command; {nearest(key, keys)}")
        else:
            places.append(Path(word))
    return places, values


def _no_flag(argument: str) -> UserError:
    word = argument.lstrip("-")
    if "=" in word:
        return UserError(
            f"{argument}: settings are typed without dashes: {word}; a W&B sweep passes them so with"
            " ${args_no_hyphens} in its command"
        )
    return UserError(
        f"{argument}: there is no such option; {nearest(argument, FLAGS)}. Settings are typed as KEY=VALUE"
    )


def _parts(word: str) -> list[str]:
    """Nested parameters of a W&B sweep, `optim={'optimizer': {'lr': 0.1}}`, by their dotted keys."""
    key, _, value = word.partition("=")
    if key not in _TOP_GROUPS or not value.startswith("{'"):
        return [word]
    try:
        return [f"{name}={as_hydra(item)}" for name, item in _dotted(key, ast.literal_eval(value))]
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return [word]


def _dotted(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, item in value.items():
        yield from _dotted(f"{key}.{name}", item)


def _turned(word: str) -> str:
    key, equals, value = word.partition("=")
    # Lightning passes Hydra's own "." to the processes that it starts.
    if key in _ELSEWHERE and value.strip("'\"") != ".":
        say(f"note: {word} is read as {_ELSEWHERE[key]}={value}", error=True)
        return f"{_ELSEWHERE[key]}={value}"
    if equals and key in _NONE and value in ("null", "None", ""):
        return f"{key}=none"
    if not equals or not (value == "None" or (value[:1] in "({[" and re.search(r"['(]|\bNone\b", value))):
        return word
    try:
        turned = f"{key}={as_hydra(ast.literal_eval(value))}"
        OverridesParser.create().parse_override(turned)
    except (ValueError, SyntaxError, HydraException):
        return word
    if turned != word:
        say(f"note: {word} is read as {turned}", error=True)
    return turned


def _opened(word: str) -> str:
    return f"++{word}" if is_open(word.partition("=")[0]) else word


def is_open(key: str) -> bool:
    """Whether a key is one of `OPEN`, or in it."""
    return any(key == name or key.startswith(f"{name}.") for name in OPEN)


def as_hydra(value: Any) -> str:
    """A plain value of Python's in Hydra's grammar, in quotes where Hydra would read something else."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_hydra, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and value.lower() not in _WORDS
        return value if plain else QuotedString(value, Quote.single).with_quotes()
    return repr(value)


def quoted_path(word: str, keys: Collection[str]) -> str:
    """A word KEY=VALUE whose value is a path, in quotes: file names may hold what Hydra would read as its grammar."""
    key, _, value = word.partition("=")
    if key not in keys or value[:1] in ("'", '"', ""):
        return word
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def _check(word: str) -> None:
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    group = name.replace(".", "/")
    if "." in name and value in options(group):
        raise UserError(f"{word}: {group} is a group, whose choices are typed with a slash: {group}={value}")
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException as error:
        if not equals:
            raise UserError(
                f"{word}: not a setting; type KEY=VALUE, +KEY=VALUE for a new one, ~KEY to remove one"
            ) from error
        inner = value.replace("\\", "\\\\").replace("'", "\\'")
        quoted = f"{key}='{inner}'"
        raise UserError(
            f"{word}: Hydra's grammar reads signs such as = , ( [ {{ in a value as its own; in quotes they are text:"
            f' "{quoted}"'
        ) from error
    if name in _TOP_GROUPS and equals and not parsed.is_sweep_override() and not isinstance(parsed.value(), str | list):
        raise UserError(f"{word}: {name} is a group, and has one of its choices; {nearest(value, options(name))}")
