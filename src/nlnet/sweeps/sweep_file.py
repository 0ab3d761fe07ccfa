"""W&B's sweep files, read as plain values: which program runs, what varies, how points are chosen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from nlnet.config.search_path import search_path
from nlnet.errors import UserError, nearest
from nlnet.reading import read_yaml
from nlnet.text import say

METHODS = ("grid", "random")
_TRAINING = ("-m", "nlnet.cli.train", "nlnet-train")


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Args:
        name: of its file.
        method: "grid", every combination, or "random".
        parameters: dotted key of a setting -> how its values are chosen, in W&B's terms.
        words: of the command line of every point.
        run_cap: how many points at most.
    """

    name: str
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    words: tuple[str, ...]
    run_cap: int | None


def find_sweep(name: str) -> Path:
    """The file of this name, or the project's own: `table2a` is `configs/sweeps/table2a.yaml`. Raises UserError."""
    folders = [root / "sweeps" for root in search_path()]
    for path in (Path(name), *(folder / f"{name}.yaml" for folder in folders)):
        if path.is_file():
            return path
    known = sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))
    raise UserError(f"{name}: there is no such sweep file; {nearest(name, known)}")


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file. Raises UserError for what is none, and for what only W&B can run."""
    try:
        content = read_yaml(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise UserError(f"{path}: not a sweep: expected a method and parameters, as W&B's sweep files have them")
    method = content.get("method")
    if method not in METHODS:
        raise UserError(
            f"{path}: method: {method}: only {' and '.join(METHODS)} run without W&B, whose server chooses the points"
            f" of others: wandb sweep {path}"
        )
    if "early_terminate" in content:
        say(f"note: {path}: early_terminate is W&B's; here every point trains to its end", error=True)
    cap = content.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        raise UserError(f"{path}: run_cap: {cap}: expected a whole number from 1")
    parameters = dict(_flat(content["parameters"], "", path))
    if not parameters:
        raise UserError(f"{path}: parameters: nothing varies; name a setting and its values")
    return Sweep(path.stem, method, parameters, _fixed_words(content, path), cap)


def varied(sweep: Sweep, words: Sequence[str]) -> tuple[Sweep, list[str]]:
    """The sweep with what is typed besides, and those of the words that are the same for every point.

    A word of a parameter of the file takes the place of its values; `seed=0,1,2` is several, and varies whatever it is.
    """
    parameters, others = dict(sweep.parameters), []
    for word in words:
        override = OverridesParser.create().parse_override(word)
        key = word.partition("=")[0]
        if override.is_sweep_override():
            texts = [str(part) for part in override.sweep_string_iterator()]
            parameters[key] = {"values": [OverridesParser.create().parse_override(f"{key}={t}").value() for t in texts]}
        elif key in parameters:
            parameters[key] = {"values": [override.value()]}
        else:
            others.append(word)
    return replace(sweep, parameters=parameters), others


def _flat(parameters: Mapping[Any, Any], prefix: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Nested parameters by their dotted keys."""
    for key, how in parameters.items():
        name = f"{prefix}{key}"
        if not isinstance(how, dict):
            raise UserError(f"{path}: parameters: {name}: expected value, values or a distribution")
        if isinstance(how.get("parameters"), dict):
            yield from _flat(how["parameters"], f"{name}.", path)
        else:
            yield name, how


def _fixed_words(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The settings in the command; `logger=...`, which is for W&B, is left out."""
    program, command = content.get("program"), content.get("command", [])
    if program is not None and Path(str(program)).name != "train.py":
        raise UserError(f"{path}: program: {program}: only src/train.py runs without W&B")
    if not isinstance(command, list):
        raise UserError(f"{path}: command: expected a list of words")
    words = [str(word) for word in command if word not in _TRAINING and not str(word).startswith("${")]
    for word in words:
        if "=" not in word or word.startswith("-"):
            raise UserError(f"{path}: command: {word}: only settings (KEY=VALUE) run without W&B")
    return tuple(word for word in words if not word.startswith("logger="))
