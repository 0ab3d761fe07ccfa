"""How a command ends: one message and an exit code."""

import io
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from nlnet.config.compose import explain
from nlnet.errors import RunInterrupted, UserError
from nlnet.saving import DISK
from nlnet.text import say

_LONGEST = 6000  # characters of a line


def run(command: Callable[[], Any], config_name: str = "train") -> Any:
    """The value of `command()`; a mistake of the user's is printed as one message, and the process exits with code 1.

    `extras.traceback=true` shows where it came from. Errors of the program itself keep their traceback.
    """
    # Hydra would print its own errors and exit; here they are read first.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    for stream in (sys.stdout, sys.stderr):  # under LC_ALL=C a progress bar's signs would end the run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return command()
    except RunInterrupted as stop:
        where = f"; continue with ckpt_path={stop.checkpoint}" if stop.checkpoint else "; nothing was trained yet"
        say(f"{stop}{where}" if not stop.checkpoint else f"{stop}{where} or ckpt_path=last", error=True)
        sys.exit(128 + stop.signal)
    except Exception as error:
        message = message_of(error, config_name)
        if message is None:
            raise
        if "extras.traceback=true" in sys.argv:
            for text in traceback.format_exc().splitlines():
                say(text, error=True)
        say_error(message)
        sys.exit(1)


def message_of(error: Exception, config_name: str = "train") -> str | None:
    """What to tell of a mistake of the user's; None for an error of the program itself."""
    readable = _of_disk(error) or explain(error, config_name)
    return str(readable) if isinstance(readable, UserError) else None


def say_error(message: str) -> None:
    """Print a message in its own lines; those in what it quotes are shown."""
    for text in f"error: {message}".split("\n"):
        # What a file says may be as long as it likes; the end of a message is what to do.
        say(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... {text[-_LONGEST // 4 :]}", error=True)


def show_version() -> None:
    """The answer to `--version`."""
    say(f"nlnet {version('nlnet')}")


def _of_disk(error: Exception) -> UserError | None:
    """A full or read-only disk, wherever it was noticed."""
    if not isinstance(error, OSError) or error.errno not in DISK:
        return None
    return UserError(f"{error.filename or 'a file of this run'}: {error.strerror}; {DISK[error.errno]}")
