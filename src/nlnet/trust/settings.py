"""Holding the settings in a file against the schema: what comes from a file chooses no code, place or host."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nlnet.errors import UserError
from nlnet.trust.schema import CLASS_FIELDS, CLASSES, TOP_FIELDS, YOURS, Field
from nlnet.trust.targets import find_target, is_within

ALLOW, ALLOW_IN_RUNS = "allow_targets=[{package}]", "extras.allow_targets=[{package}], or extras.trust=true"

PARTS = ("data", "model", "task", "optim", "trainer", "paths", "extras")
"""What the settings of every run have."""

_OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_")
_FOLDERS = ("dirpath", "folder", "save_dir")  # where callbacks and loggers write
_MOST_TEXT, _MOST_ENTRIES, _DEEPEST = 4096, 10_000, 16


def settings_of_file(
    settings: Any, where: str, allow: Sequence[str] = (), *, run_dir: str = "", how: str = ALLOW_IN_RUNS
) -> dict[str, Any]:
    """The settings that a file holds, checked, without those that only the command line sets (`YOURS`).

    Args:
        settings: what was read from the file, of plain types.
        where: the file, as the messages begin.
        allow: packages whose classes and functions it may name besides the classes in `CLASSES`; typed by the user.
        run_dir: the folder of the run as the file says; callbacks and loggers write nowhere else.
        how: how the user allows a `{package}`.

    Raises UserError for classes that are not allowed, and for values that do not fit.
    """
    if not isinstance(settings, Mapping):
        raise UserError(f"{where}: holds a {type(settings).__name__}, not the settings of a run")
    check_plain(settings, "", where)
    _check_targets(settings, "", where, allow, how)
    for part in PARTS:
        if not isinstance(settings.get(part), Mapping):
            raise UserError(
                f"{where}: {part}={_short(settings.get(part))} is not a part of a configuration; restore it"
            )
    _check_imports(settings["extras"].get("imports") or [], where, allow, how)
    checked = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    for key in YOURS:
        part, _, name = key.partition(".")
        if isinstance(checked.get(part), dict) and not _is_allowed(checked[part].get("_target_"), allow):
            checked[part].pop(name, None)
    for part, value in checked.items():
        _check_fields(part, value, where)
        if part in ("callbacks", "logger"):
            _check_places(value, part, where, allow, run_dir)
    return checked


def check_plain(value: Any, key: str, where: str, depth: int = 0) -> None:
    """Raises UserError for anything but None, finite numbers, texts, and lists and dictionaries of these.

    A text holds no interpolation: `${oc.env:NAME}` would tell a file's author what is in the environment.
    """
    wrong = None
    if isinstance(value, Mapping | list | tuple):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        if depth > _DEEPEST or len(value) > _MOST_ENTRIES:
            wrong = "too deep" if depth > _DEEPEST else f"{len(value):,} entries"
        for name, inner in () if wrong else entries:
            if isinstance(value, Mapping) and (not isinstance(name, str) or len(name) > _MOST_TEXT):
                raise UserError(f"{where}: {key or 'the file'} has the key {_short(name)}, which is not a name")
            check_plain(inner, f"{key}.{name}" if key else str(name), where, depth + 1)
    elif isinstance(value, str):
        if "${" in value or value == "???":
            wrong = "an interpolation, and those are only for the command line and your own configurations"
        elif len(value) > _MOST_TEXT:
            wrong = f"a text of {len(value):,} characters"
    elif isinstance(value, float):
        wrong = None if math.isfinite(value) else "not a finite number"
    elif isinstance(value, int):
        wrong = None if abs(value) < 2**63 else "too large a number"
    elif value is not None:
        wrong = f"a {type(value).__name__}, and settings are plain values"
    if wrong:
        raise UserError(f"{where}: {key}={_short(value)} is {wrong}; restore the file, or make the run anew")


def _check_targets(node: Any, key: str, where: str, allow: Sequence[str], how: str) -> None:
    """Every `_target_` is one that its place in the configuration may have, or of an allowed package."""
    if isinstance(node, list | tuple):
        for index, inner in enumerate(node):
            _check_targets(inner, f"{key}.{index}", where, allow, how)
    if not isinstance(node, Mapping):
        return
    for name, inner in node.items():
        path = f"{key}.{name}" if key else name
        if name == "_target_":
            _check_target(inner, key, where, allow, how)
        elif name.startswith("_") and name not in _OF_HYDRA:
            raise UserError(f"{where}: {path} is set, and a file may not say that")
        _check_targets(inner, path, where, allow, how)


def _check_target(target: Any, key: str, where: str, allow: Sequence[str], how: str) -> None:
    if not isinstance(target, str):
        raise UserError(f"{where}: {key}._target_={_short(target)} is not the name of a class")
    group = f"{key.split('.')[0]}.*"
    if target in CLASSES.get(key, ()) or (key.count(".") == 1 and target in CLASSES.get(group, ())):
        return
    if not _is_allowed(target, allow):
        known = CLASSES.get(key) or CLASSES.get(group)
        own = "is not one of nlnet's own" if known else "is named where a file may not name any class"
        raise UserError(
            f"{where}: {key}._target_={_short(target)} {own}. If you trust the file and the package, allow it with"
            f" {how.format(package=target.partition('.')[0])}"
        )
    find_target(target, allow, f"{where}: {key}._target_")


def _check_imports(modules: Any, where: str, allow: Sequence[str], how: str) -> None:
    """Modules that the run imported are imported again where their packages are allowed."""
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise UserError(f"{where}: extras.imports={_short(modules)} is no list of modules")
    for name in modules:
        if not is_within(name, allow):
            raise UserError(
                f"{where}: extras.imports={_short(name)} is a module that this run imported. If you trust it, allow it"
                f" with {how.format(package=name.partition('.')[0])}"
            )


def _is_allowed(target: Any, allow: Sequence[str]) -> bool:
    return isinstance(target, str) and is_within(target, allow)


def _check_fields(part: str, value: Any, where: str) -> None:
    """The values of a part of the configuration, where the schema knows them."""
    if part in TOP_FIELDS:
        _check_field(value, TOP_FIELDS[part], part, where)
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        if f"{part}.{name}" in TOP_FIELDS:
            _check_field(inner, TOP_FIELDS[f"{part}.{name}"], f"{part}.{name}", where)
    fields = CLASS_FIELDS.get(str(value.get("_target_"))) if isinstance(value, Mapping) else None
    if fields is None:
        return
    for name, inner in value.items():
        if name in fields:
            _check_field(inner, fields[name], f"{part}.{name}", where)
        elif name not in _OF_HYDRA:
            raise UserError(f"{where}: {part}.{name} is not a setting that a file may hold; give it when you call")


def _check_field(value: Any, field: Field, key: str, where: str) -> None:
    if not field.fits(value):
        raise UserError(f"{where}: {key}={_short(value)}: expected {field.expected}")


def _check_places(value: Any, key: str, where: str, allow: Sequence[str], run_dir: str) -> None:
    """Callbacks and loggers of ours write into the folder of the run: their texts are no other paths, and no URLs."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "_target_" and not _is_allowed(value.get("_target_"), allow):
                _check_places(inner, f"{key}.{name}", where, allow, run_dir)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_places(inner, f"{key}.{index}", where, allow, run_dir)
    elif isinstance(value, str):
        inside = bool(run_dir) and f"{value}/".startswith(f"{run_dir}/")
        elsewhere = value.startswith(("/", "~")) or key.rpartition(".")[2] in _FOLDERS
        if (elsewhere and not inside) or "://" in value or ".." in value.split("/") or "\\" in value:
            raise UserError(f"{where}: {key}={_short(value)} is a place outside of the run's folder; give it yourself")


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain_arguments(model: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments in a network's settings, without Hydra's own keys. Raises UserError for what is not plain."""
    check_plain(model, "model", where)
    _check_no_targets({key: value for key, value in model.items() if key != "_target_"}, "model", where)
    return {key: value for key, value in model.items() if key not in ("_target_", "_convert_", "_recursive_")}


def _check_no_targets(value: Any, key: str, where: str) -> None:
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in entries:
        if str(name).startswith("_") and name not in ("_convert_", "_recursive_"):
            raise UserError(f"{where}: {key}.{name} is set, and only plain values are passed to its network")
        _check_no_targets(inner, f"{key}.{name}", where)
