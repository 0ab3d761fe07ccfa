"""Text from files on its way to a terminal, a table or a record: what it would do is shown, what is secret is not."""

import re
import sys
from collections.abc import Mapping
from typing import Any

MASK = "***"
"""What stands for a secret."""

_WORDS = r"passwd|password|secret|signature|token|credential|api[-_]?key|access[-_]?key"
_SECRET_KEY = re.compile(rf"(?:{_WORDS})(?!.*(?:file|path|size|count)$)", re.IGNORECASE)
_USER = re.compile(r"(?<=://)([^\s/?#'\"@:]*):[^\s/?#'\"]*@")
_TOKEN = re.compile(r"(?<=://)[^\s/?#'\"@:]+(?=@)")
_QUERY = re.compile(
    rf"([?&;](?:[^\s=&?;'\"]*(?:{_WORDS})[^\s=&?;'\"]*|sig|key|auth|code|pwd|Key-Pair-Id|Policy)=)[^\s&#;'\",)\]]+",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"((?<![^\s'\"(\[,])[\w.\-+]*(?:{_WORDS})=)[^\s,;'\")\]]+", re.IGNORECASE)
_HEADER = re.compile(r"(Authorization:\s*\w+\s+)[^\s'\"]+", re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@")


def shown(text: object) -> str:
    r"""`text` in one line: what is no printable character as its escape, such as `\x1b`, `\n` or `\u202e`.

    Nothing in it moves the cursor, turns the direction of writing, hides, or begins a line.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def masked(value: Any) -> Any:
    """`value` with `***` for passwords, tokens and signatures: in the URLs of a text, after `token=` and the like, and
    in mappings and lists, also for the whole text under a key such as `api_key`.
    """
    if isinstance(value, str):
        value = _TOKEN.sub(MASK, _USER.sub(rf"\1:{MASK}@", value))
        for pattern in (_QUERY, _NAMED, _HEADER):
            value = pattern.sub(rf"\1{MASK}", value)
        return value
    if isinstance(value, Mapping):
        return {key: _masked_under(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(masked, value)) if type(value) in (list, tuple) else value
    return value


def is_masked(value: str) -> bool:
    """Whether a text is one of which `masked` has kept the rest."""
    return MASK in value and masked(value) == value


def _masked_under(key: Any, value: Any) -> Any:
    secret = isinstance(key, str) and isinstance(value, str) and value and _SECRET_KEY.search(key)
    return MASK if secret else masked(value)


def line(text: object) -> str:
    """`text` as it may be printed: `shown` and `masked`."""
    return shown(masked(str(text)))


def say(text: object, *, error: bool = False) -> None:
    """Print one line, to standard error if `error`."""
    print(line(text), file=sys.stderr if error else sys.stdout, flush=True)


def cell(text: object) -> str:
    """`text` as the cell of a table that a spreadsheet may open: in one line, and never a formula."""
    value = line(text)
    return f"'{value}" if value.startswith(_FORMULA) else value
