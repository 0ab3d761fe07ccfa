"""Documents whose code blocks are run: what a reader types, and the files that a page asks for."""

import re
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Section:
    """A heading, and below it: files by their path, commands, and Python to run."""

    title: str
    files: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    python: list[str] = field(default_factory=list)


def sections(page: Path) -> list[Section]:
    """The parts of a page by its headings of the second level; the first is what comes before them."""
    found = []
    for text in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        section = Section(text.splitlines()[0].lstrip("# "))
        for language, path, body in _BLOCK.findall(text):
            if path:
                section.files[path] = body
            elif language == "bash":
                section.commands += commands_of(body)
            elif language == "python":
                section.python.append(body)
        found.append(section)
    return found


def commands_of(block: str) -> list[str]:
    """The commands of a shell block, without comments; a line that ends in a backslash goes on."""
    lines = block.replace("\\\n", " ").splitlines()
    stripped = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in lines)
    return [line for line in stripped if line]
