"""The code that runs: its version, its commit, and a digest of its files."""

import subprocess
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]


@cache
def code() -> dict[str, str]:
    """`nlnet`, the version; `git`, the commit, where there is one; `files`, a digest of the package's files."""
    return {"nlnet": version("nlnet"), "git": str(git_revision()), "files": _digest()}


@cache
def git_revision() -> str | None:
    """The checkout's commit, with `+changes` where it has any; None outside a checkout."""
    try:
        revision = _git(_PACKAGE, "rev-parse", "HEAD")
        return revision + ("+changes" if _git(_PACKAGE, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _digest() -> str:
    digest = sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
