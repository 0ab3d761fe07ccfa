"""Who has the lock of a run's folder, by what its file says; `run_lock` takes it."""

import os
import re
import socket
from pathlib import Path

from nlnet import limits
from nlnet.errors import UserError
from nlnet.reading import read_text

FILE = ".lock"
HOLDER = re.compile(r"process \d+ on [\w.-]+")


def is_lost(folder: Path) -> bool:
    """Whether no process has the lock of a folder whose run says that it is under way.

    The lock is not touched, so that a run that starts at this moment is not disturbed. False where a process of another
    machine has it, of which nothing is known here.
    """
    try:
        holder = read_text(folder / FILE, limits.SETTINGS).strip()
    except FileNotFoundError:
        return True
    except (OSError, UserError):
        return False
    process, _, host = holder.removeprefix("process ").partition(" on ")
    if not HOLDER.fullmatch(holder) or host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # somebody else's
        return False
    return False
