"""How a command ends: one message and an exit code."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from nlnet.config.compose import explain
from nlnet.errors import RunInterrupted, UserError
from nlnet.saving import DISK
from nlnet.text import say


def run(command: Callable[[], Any], config_name: str = "train") -> Any:
    """The value of `command()`; a mistake of the user's is printed as one message, and the process exits with code 1.

    `extras.traceback=true` shows where it came from. Errors of the program itself keep their traceback.
    """
    # Hydra would print its own errors and exit; here they are read first.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        return command()
    except RunInterrupted as stop:
        where = f"; continue with ckpt_path={stop.checkpoint}" if stop.checkpoint else "; nothing was trained yet"
        say(f"{stop}{where}" if not stop.checkpoint else f"{stop}{where} or ckpt_path=last", error=True)
        sys.exit(128 + stop.signal)
    except Exception as error:
        readable = _of_disk(error) or explain(error, config_name)
        if not isinstance(readable, UserError):
            raise
        if "extras.traceback=true" in sys.argv:
            for text in traceback.format_exc().splitlines():
                say(text, error=True)
        for text in f"error: {readable}".split("\n"):  # its own lines; those in what it quotes are shown
            say(text, error=True)
        sys.exit(1)


def _of_disk(error: Exception) -> UserError | None:
    """A full or read-only disk, wherever it was noticed."""
    if not isinstance(error, OSError) or error.errno not in DISK:
        return None
    return UserError(f"{error.filename or 'a file of this run'}: {error.strerror}; {DISK[error.errno]}")
