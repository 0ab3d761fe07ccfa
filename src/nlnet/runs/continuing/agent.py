"""A run that W&B's agent takes up again after a preemption: found by its id, continued with its own command line."""

import ast
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nlnet.config.words import as_hydra
from nlnet.errors import UserError
from nlnet.runs.file_names import RECORD
from nlnet.runs.run_dir import newest_checkpoint, read_record
from nlnet.text import is_masked, say

_ONLY_GIVEN_BACK = ("_wandb", "experiment_name")
"""Keys that nobody types: with them the arguments are a configuration that W&B gives back."""


def resumed_words(words: Sequence[str], env: Mapping[str, str] = os.environ) -> list[str]:
    """The overrides of the run that W&B resumes in this process; `words` where it resumes none.

    An agent that takes up a preempted run types the run's whole configuration, in Python's syntax, with what the client
    has added. None of that is read: the run folder that has this id says how it was started, and it goes on from its
    last checkpoint, or begins again where it has none. Raises UserError where there is no such folder.
    """
    run_id = env.get("WANDB_RUN_ID")
    if not run_id or not env.get("WANDB_SWEEP_ID"):
        return list(words)
    log_dir = _value("paths.log_dir", words) or env.get("NLNET_LOG_DIR", "logs")
    folder = next((path for path in _folders(words, log_dir) if read_record(path).get("wandb_id") == run_id), None)
    if folder is None:
        if any(_value(key, words) is not None for key in _ONLY_GIVEN_BACK):
            raise UserError(
                f"W&B resumes its run {run_id}, and no run under {Path(log_dir).absolute()} has this id; start agents"
                " with NLNET_LOG_DIR=FOLDER, the same one that all machines share"
            )
        return list(words)
    say(f"W&B resumes its run {run_id}: it goes on in {folder}", error=True)
    return _own_words(folder)


def _own_words(folder: Path) -> list[str]:
    words = read_record(folder).get("words")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(
            f"{folder}/{RECORD}: does not say how this run was started; continue it with ckpt_path={folder}"
        )
    for word in words:
        if is_masked(word):
            raise UserError(
                f"{folder}/{RECORD}: {word}: the secret is not kept; continue it with ckpt_path={folder} and the whole"
                " setting, and give secrets in environment variables"
            )
    replaced = {"paths.run_dir"} | ({"ckpt_path"} if newest_checkpoint(folder) else set())
    kept = [word for word in words if word.partition("=")[0] not in replaced]
    return [*kept, f"paths.run_dir={as_hydra(str(folder))}", *(["ckpt_path=last"] if "ckpt_path" in replaced else [])]


def _folders(words: Sequence[str], log_dir: str) -> Iterator[Path]:
    """Where the run may be: the folder that it says it had, wherever the agent was started, and all in `log_dir`."""
    try:
        given = ast.literal_eval(_value("paths", words) or "{}")
        if isinstance(given, dict) and isinstance(given.get("run_dir"), str):
            yield Path(given["run_dir"])
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    yield from (path.parent.absolute() for path in Path(log_dir).glob(f"*/runs/*/{RECORD}"))


def _value(key: str, words: Sequence[str]) -> Any:
    return next((word.partition("=")[2] for word in words if word.partition("=")[0] == key), None)
