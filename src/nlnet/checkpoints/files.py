"""The one reader of PyTorch files: tensors and plain values on the CPU, and nothing in a file is run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nlnet.checkpoints.guard.archive import check_content, check_file
from nlnet.checkpoints.shards import assembled, is_sharded
from nlnet.errors import UserError
from nlnet.limits import TooLarge
from nlnet.renamed import current_checkpoint
from nlnet.sealing import DamagedError, check_whole

LAST, PREVIOUS, BEST = "last.ckpt", "last-1.ckpt", "best.ckpt"
"""The checkpoints of a run: the newest one, the one before it, and the one of the best metric."""

IF_TRUSTED = "if you trust it, load it yourself and save its state dict with torch.save"
FOREIGN = "other systems' files are converted first: nlnet-convert FILE --source NAME --out CONVERTED"

# The part of torch's message that says what is wrong, not how to load the file unsafely.
_REASON = re.compile(r"(?:Trying to load unsupported|Unsupported)[^\n]*?(?=\. |\.?\n|\.?$)")


def read_file(path: str | Path, prefix: str = "", *, advice: str = IF_TRUSTED) -> dict[str, Any]:
    """What a checkpoint or a file of weights holds, by name (`torch.load` with `weights_only=True`).

    Tensors of a sharded run's checkpoint are read from the shards beside it (`nlnet.checkpoints.shards`).
    The settings and the callbacks' states of an earlier version's run get today's names (`nlnet.renamed`).

    Args:
        path: the file.
        prefix: what the messages say before the path: the key that names it, such as "ckpt_path=".
        advice: how the messages end: what to do with a file of another kind.

    The bytes are checked first, by the file's own seal or its zip archive's checksums (`nlnet.sealing`).

    Raises UserError if there is no such file, if it is damaged or asks for more than tensors and plain values, or if it
    holds no dictionary.
    """
    where = f"{prefix}{path}"
    try:
        check_whole(path)  # first: what is damaged is no attack, and there is a way out
        check_file(Path(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, Mapping):
            check_content(content)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{where}: this is a folder; give a file in it") from None
    except TooLarge as error:
        raise UserError(f"{where}: {error}") from None
    except DamagedError as error:
        raise UserError(
            f"{where}: damaged since it was written, not a checkpoint of tensors and plain values any more: {error};"
            f" {_way_out(Path(path), prefix)}"
        ) from error
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        raise UserError(
            f"{where}: not a checkpoint of tensors and plain values alone, and nothing else in it is run:"
            f" {_reason(error)}; {advice}"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: holds a {type(content).__name__}, not weights by name; {advice}")
    content = dict(content)
    return current_checkpoint(assembled(content, Path(path), prefix) if is_sharded(content) else content)


def _reason(error: Exception) -> str:
    text = str(error)
    if found := _REASON.search(text):
        return found[0]
    return text.splitlines()[0] if text else f"{type(error).__name__}, it ends too early or is empty"


def _way_out(path: Path, prefix: str) -> str:
    """What to do where a file is damaged: another checkpoint of its run, if there is one."""
    others = [path.with_name(name) for name in (PREVIOUS, LAST, BEST) if name != path.name]
    other = next((other for other in others if path.suffix == ".ckpt" and other.is_file()), None)
    again = "copy it again from where it was made"
    return f"{again}, or take {prefix}{other}" if other else again
