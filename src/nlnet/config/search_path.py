"""Where configurations are looked for: in the project's folder, then in the user's own, which `--config-dir` names."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from nlnet.config.paths import config_dir
from nlnet.errors import UserError

FLAGS = ("--config-dir", "-cd")
"""Hydra's own; the commands that Hydra does not start read them here."""


def search_path() -> list[Path]:
    """The project's folder first: a file in the user's does not replace one of the same name."""
    return [Path(config_dir()), *user_folders()]


def user_folders() -> list[Path]:
    """The folders besides the project's: inside a job those that Hydra uses, elsewhere those of this command line.

    Raises UserError if a folder of the command line does not exist.
    """
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        return [Path(s.path) for s in sources if s.schema == "file" and s.provider != "main"]
    folders, _ = split_flags(sys.argv[1:])
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{FLAGS[0]} {folder}: there is no such folder")
    return folders


def split_flags(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders that `--config-dir FOLDER` or `-cd FOLDER` name (Hydra takes the last), and the other arguments."""
    folders: list[Path] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in FLAGS:
            folders.append(Path(value if equals else next(words, "")).absolute())
        else:
            others.append(word)
    return folders[-1:], others
