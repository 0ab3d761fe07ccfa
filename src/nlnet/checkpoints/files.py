"""The one reader of PyTorch files: tensors and plain values on the CPU, and nothing in a file is run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nlnet.errors import UserError
from nlnet.renamed import current_checkpoint

IF_TRUSTED = "if you trust it, load it yourself and save its state dict with torch.save"
FOREIGN = "other systems' files are converted first: nlnet-convert FILE --source NAME --out CONVERTED"

# The part of torch's message that says what is wrong, not how to load the file unsafely.
_REASON = re.compile(r"(?:Trying to load unsupported|Unsupported)[^\n]*?(?=\. |\.?\n|\.?$)")


def read_file(path: str | Path, prefix: str = "", *, advice: str = IF_TRUSTED) -> dict[str, Any]:
    """What a checkpoint or a file of weights holds, by name (`torch.load` with `weights_only=True`).

    The settings and the callbacks' states of an earlier version's run get today's names (`nlnet.renamed`).

    Args:
        path: the file.
        prefix: what the messages say before the path: the key that names it, such as "ckpt_path=".
        advice: how the messages end: what to do with a file of another kind.

    Raises UserError if there is no such file, if it is damaged or asks for more than tensors and plain values, or if it
    holds no dictionary.
    """
    where = f"{prefix}{path}"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{where}: this is a folder; give a file in it") from None
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        raise UserError(
            f"{where}: not a checkpoint of tensors and plain values alone, and nothing else in it is run:"
            f" {_reason(error)}; {advice}"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: holds a {type(content).__name__}, not weights by name; {advice}")
    return current_checkpoint(dict(content))


def _reason(error: Exception) -> str:
    text = str(error)
    if found := _REASON.search(text):
        return found[0]
    return text.splitlines()[0] if text else f"{type(error).__name__}, it ends too early or is empty"
