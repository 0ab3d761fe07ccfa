"""Which best checkpoints a run has: what it says of them where it is continued, and what the files themselves say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from nlnet.checkpoints.files import LAST, PREVIOUS, read_file
from nlnet.errors import UserError


def kept_files(callback: ModelCheckpoint, state: Any) -> dict[str, Any]:
    """What a run that goes on knows of its best checkpoints: by `state`, of its checkpoint, and by what is on the disk.

    Paths count only where they are files of the callback's own folder; what names others is left out. The files in it
    say which score they have. So one that is newer than `state`, or was moved here with its run, is still the best
    until there is a better one.
    """
    fresh, folder = callback.state_dict(), Path(str(callback.dirpath))
    given = state if isinstance(state, Mapping) and state.get("dirpath") == fresh["dirpath"] else {}
    for name in ("best_model_path", "last_model_path"):
        fresh[name] = given[name] if _is_in(given.get(name), folder) else ""
    said = given.get("best_k_models")
    scores = said.items() if isinstance(said, Mapping) else ()
    kept = {path: score for path, score in scores if _is_in(path, folder) and isinstance(score, Tensor)}
    kept = {path: score for path, score in kept.items() if Path(path).name not in (LAST, PREVIOUS)}
    if callback.monitor and callback.save_top_k:
        kept |= _scores_on_disk(callback, folder)
    if not kept:
        return fresh
    ranked = sorted(kept, key=kept.__getitem__, reverse=callback.mode == "max")
    ranked = ranked if callback.save_top_k == -1 else ranked[: max(callback.save_top_k, 1)]
    fresh |= {"best_k_models": {path: kept[path] for path in ranked}, "best_model_path": ranked[0]}
    fresh |= {"best_model_score": kept[ranked[0]], "current_score": given.get("current_score")}
    if callback.save_top_k in (-1, len(ranked)):
        fresh |= {"kth_best_model_path": ranked[-1], "kth_value": kept[ranked[-1]]}
    return fresh


def _scores_on_disk(callback: ModelCheckpoint, folder: Path) -> dict[str, Tensor]:
    """The files in `folder` that this callback has written as one of the best, and the scores that they have.

    A file is saved when its own score is known already, and so it holds it under its own name.
    """
    found = {}
    for path in sorted(folder.glob(f"*{callback.FILE_EXTENSION}")):
        if path.name in (LAST, PREVIOUS) or not _is_in(str(path), folder):
            continue
        try:
            states = read_file(path).get("callbacks")
        except UserError:  # damaged, or not of a run: no best checkpoint to go on from
            continue
        own = states.get(callback.state_key) if isinstance(states, Mapping) else None
        scores = own.get("best_k_models") if isinstance(own, Mapping) else None
        for name, score in scores.items() if isinstance(scores, Mapping) else ():
            if Path(str(name)).name == path.name and isinstance(score, Tensor) and score.numel() == 1:
                found[str(path)] = score
    return found


def _is_in(path: Any, folder: Path) -> bool:
    """Whether `path` is a plain file directly in `folder`."""
    if not isinstance(path, str) or "://" in path or "\0" in path:
        return False
    place = Path(path)
    return place.parent == folder and ".." not in place.parts and place.is_file() and not place.is_symlink()
