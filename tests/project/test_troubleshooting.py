"""The messages on docs/troubleshooting.md are those of the code, word for word."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OTHERS = {"CUDA out of memory"}  # of PyTorch
MESSAGES = re.findall(r"^- `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)


def texts() -> list[str]:
    """The texts in the code, with a sign that is in none of them for each value that is filled in."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(map(str, parts)))
    return found


@pytest.fixture(scope="module")
def said() -> str:
    return "\n".join(texts())


@pytest.mark.parametrize("message", [text for text in MESSAGES if text not in OTHERS])
def test_a_message_of_the_page_is_in_the_code(message: str, said: str) -> None:
    """As one text, where `…` is one value or several beside each other."""
    parts = (re.escape(part) for part in message.split("…"))
    assert re.search("\0+".join(parts), said), "the code says this no more"


def test_the_page_has_what_people_meet_and_no_message_twice() -> None:
    assert len(MESSAGES) == len(set(MESSAGES)) >= 40
