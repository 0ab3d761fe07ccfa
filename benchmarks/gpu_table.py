"""The JSON files of `on_gpu.sh` as one Markdown page: a table for each, a row for each figure.

python benchmarks/gpu_table.py FOLDER     # writes FOLDER/gpu.md
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def figures(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(the way to a value, the value) of everything in a JSON but its machine."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key != "machine":
                yield from figures(part, f"{name} / {key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            labels = [str(v) for v in part.values() if isinstance(v, str | int)][:4]
            yield from figures(part, f"{name} / {', '.join(labels) or number}")
    else:
        yield name, f"{value:.5g}" if isinstance(value, float) else str(value)


def page(folder: Path) -> str:
    lines = ["# Figures of a GPU", ""]
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        about = ", ".join(f"{key} {value}" for key, value in content.get("machine", {}).items())
        lines += [f"## {file.stem}", "", about, "", "| what | value |", "| --- | --- |"]
        lines += [f"| {name} | {value} |".replace("\n", " ") for name, value in figures(content)] + [""]
    return "\n".join(lines)


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "gpu.md").write_text(page(folder), encoding="utf-8")
    print(f"written: {folder / 'gpu.md'}")


if __name__ == "__main__":
    main()
