"""Commands as a person types them, run in a process of their own that need not import everything first."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from helpers.processes import run_process

_MODULES = {"src/train.py": "train", "src/eval.py": "eval", "src/predict.py": "predict", "src/prepare.py": "prepare"}
_MODULES |= {f"src/{name}.py": name for name in ("explain", "regions", "report", "verify")}
_MODULES |= {f"nlnet-{name}": name for name in ("compare", "explain", "predict", "runs", "verify")}
_MODULES |= {f"nlnet-{name}": f"checkpoints.{name}" for name in ("convert", "export", "consolidate")}


def type_in(command: str, folder: Path, environment: Mapping[str, str], packages: Path | None = None) -> str:
    """What a command prints. Raises AssertionError, with what it printed, unless it exits with 0.

    Args:
        command: `python src/NAME.py ...` or `nlnet-NAME ...`.
        folder: where it is typed.
        environment: variables besides those of this process.
        packages: a folder of packages that are installed besides nlnet.
    """
    words = shlex.split(command)
    words = words[1:] if words[0] == "python" else words
    log = folder / "typed.log"
    code = run_process(_typed, _MODULES[words[0]], words[1:], str(folder), dict(environment), str(packages or ""),
                       str(log), timeout=300)  # fmt: skip
    text = log.read_text()
    assert code == 0, f"{command}\n{text}"
    return text


def _typed(name: str, arguments: list[str], folder: str, environment: dict[str, str], packages: str, log: str) -> None:
    import importlib

    os.environ |= environment
    os.chdir(folder)
    if packages:
        sys.path.insert(0, packages)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [f"nlnet-{name}", *arguments]
    importlib.import_module(f"nlnet.cli.{name}").main()
