"""Reading OpenMMLab's Python configurations as data: parsed, never run."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlnet import limits
from nlnet.errors import UserError
from nlnet.reading import read_text

_UNREADABLE = object()
"""The value of a name that a statement gave another one than is plain to see."""


def read_config(path: Path) -> dict[str, Any]:
    """The plain values that a configuration file assigns, on top of those of its `_base_` files.

    Understood are constants, lists, tuples, dictionaries, `dict(...)`, names assigned before, and sums of these. A name
    that is assigned anything else is left out, and so is one that any other statement mentions, as in
    `model["backbone"].update(depth=101)`: what it holds then is not known. Raises UserError if a file is missing or is
    no Python text.
    """
    return _readable(_read(path, 0))


def _readable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not _UNREADABLE}


def _read(path: Path, depth: int) -> dict[str, Any]:
    limits.NESTING.check(depth, path)
    try:
        values = _parse(read_text(path, limits.SETTINGS), path)
    except OSError as error:
        raise UserError(f"{path}: the configuration cannot be read: {error}") from error
    bases = values.pop("_base_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list | tuple) else [bases]:
        merged = _merge(merged, _read(path.parent / str(base), depth + 1))
    return _merge(merged, values)


def parse(text: str, where: object) -> dict[str, Any]:
    """The plain values that the text of one configuration assigns, by name; see `read_config`. Raises UserError."""
    return _readable(_parse(text, where))


def _parse(text: str, where: object) -> dict[str, Any]:
    limits.SETTINGS.check(len(text), where)
    values: dict[str, Any] = {}
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{where}: not a Python configuration: {reason}") from None
    parts: dict[str, set[str]] = {}  # the names that a value was made of, which it may share dictionaries with
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            values[name], parts[name] = _assigned(node.value, values, where), _names(node.value)
            changed = _names(*_calls(node.value))
        else:
            changed = _names(node)
        values |= dict.fromkeys(_with_users(changed, parts), _UNREADABLE)
    return values


def _assigned(node: ast.expr, names: Mapping[str, Any], where: object) -> Any:
    try:
        value = _value(node, names)
        _check_parts(value, where)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        return _UNREADABLE
    return value


def _names(*nodes: ast.AST) -> set[str]:
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _calls(node: ast.expr) -> list[ast.AST]:
    """Calls of anything but `dict`, which may change what they are given or are methods of."""
    calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
    return [call for call in calls if not (isinstance(call.func, ast.Name) and call.func.id == "dict")]


def _with_users(names: set[str], parts: Mapping[str, set[str]]) -> set[str]:
    """`names` and those that were made of them."""
    users = {name for name, of in parts.items() if of & names} - names
    return _with_users(names | users, parts) if users else names


def _check_parts(value: Any, where: object) -> None:
    """Lists of lists of the same list are few bytes, and more parts than anybody can go through."""
    left, parts = [value], 0
    while left:
        item = left.pop()
        parts += len(item) if isinstance(item, str) else 1
        limits.PARTS.check(parts, where)
        if isinstance(item, dict):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            left += item


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if names[node.id] is not _UNREADABLE:
            return names[node.id]
        case ast.List():
            return [_value(item, names) for item in node.elts]
        case ast.Tuple():
            return tuple(_value(item, names) for item in node.elts)
        case ast.Dict():
            return {_key(k, names): _value(v, names) for k, v in zip(node.keys, node.values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return {_word(word): _value(word.value, names) for word in node.keywords}
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, names)
        case ast.BinOp(op=ast.Add()):
            return _value(node.left, names) + _value(node.right, names)
    raise ValueError(f"line {node.lineno} is not a plain value")


def _key(node: ast.expr | None, names: Mapping[str, Any]) -> Any:
    if node is None:
        raise ValueError("an unpacked dictionary")
    return _value(node, names)


def _word(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise ValueError("an unpacked dictionary")
    return keyword.arg


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`, dictionaries within one another, unless the upper one says `_delete_`."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and not value.get("_delete_"):
            value = _merge(below, value)
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if k != "_delete_"}
        merged[key] = value
    return merged
