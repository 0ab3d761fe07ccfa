"""Reading OpenMMLab's Python configurations as data: parsed, never run."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlnet import limits
from nlnet.errors import UserError
from nlnet.reading import read_text


def read_config(path: Path) -> dict[str, Any]:
    """The plain values that a configuration file assigns, on top of those of its `_base_` files.

    Understood are constants, lists, tuples, dictionaries, `dict(...)`, names assigned before, and sums of these;
    assignments of anything else are left out. Raises UserError if a file is missing or is no Python text.
    """
    return _read(path, 0)


def _read(path: Path, depth: int) -> dict[str, Any]:
    limits.NESTING.check(depth, path)
    try:
        values = parse(read_text(path, limits.SETTINGS), path)
    except OSError as error:
        raise UserError(f"{path}: the configuration cannot be read: {error}") from error
    bases = values.pop("_base_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list | tuple) else [bases]:
        merged = _merge(merged, _read(path.parent / str(base), depth + 1))
    return _merge(merged, values)


def parse(text: str, where: object) -> dict[str, Any]:
    """The plain values that the text of one configuration assigns, by name. Raises UserError."""
    limits.SETTINGS.check(len(text), where)
    values: dict[str, Any] = {}
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{where}: not a Python configuration: {reason}") from None
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                value = _value(node.value, values)
                _check_parts(value, where)
                values[node.targets[0].id] = value
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if isinstance(error, UserError):
                    raise
    return values


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
        case ast.Name():
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
