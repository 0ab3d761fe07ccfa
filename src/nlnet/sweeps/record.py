"""A sweep's folder remembers which settings it was begun with."""

from collections.abc import Sequence
from pathlib import Path

from nlnet.errors import UserError
from nlnet.reading import read_json
from nlnet.saving import CannotWrite, write_json
from nlnet.text import masked, say

RECORD = "sweep.json"


def note_words(out: Path, words: Sequence[str]) -> None:
    """Write the settings that all points share into the folder, or say that it was begun with others.

    Raises CannotWrite.
    """
    mine = masked(list(words))
    try:
        out.mkdir(parents=True, exist_ok=True)
        begun = read_json(out / RECORD)["settings"]
    except (FileNotFoundError, UserError, KeyError, TypeError):
        write_json(out / RECORD, {"settings": mine})
        return
    except OSError as error:
        raise CannotWrite(out, error) from error
    if begun != mine:
        say(
            f"note: {out} was begun with other settings ({' '.join(begun) or 'none'}), and what is finished there stays"
            " as it is; choose another folder with out=FOLDER",
            error=True,
        )
