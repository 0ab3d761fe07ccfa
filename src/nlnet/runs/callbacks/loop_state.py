"""The position of Lightning's loops, written into a checkpoint so that a resumed run does exactly what is left.

A checkpoint can be written from several hooks, and each leaves the trainer's progress counters in another state, some
of which lose a validation, count an empty epoch or shift the logging step when they are loaded. Here every checkpoint
gets one of two forms, which Lightning 2.6 restores without loss (the end-to-end tests hold it to that):

- *pending*: the optimizer step is done, its validation is due and has not finished. It runs again, whole.
- *settled*: the optimizer step is done, and so is its validation if one was due.
"""

from typing import Any

import pytorch_lightning as pl

Progress = dict[str, Any]


def settle(checkpoint: dict[str, Any], trainer: pl.Trainer, *, pending: bool, epoch_over: bool) -> None:
    """Rewrite the fit loop's counters in `checkpoint` to the pending or the settled form, in place.

    `epoch_over` says that the trainer has counted the epoch of the last batch already, as it does before its end hooks.
    """
    loops = checkpoint["loops"]["fit_loop"]
    _both(loops["epoch_loop.batch_progress"], lambda p: p.update(completed=p["processed"] - (0 if pending else 1)))
    # Not from the epochs started: a resumed trainer does not count the start of its first epoch.
    done = loops["epoch_progress"]["current"]["processed"] - int(epoch_over)
    _both(
        loops["epoch_progress"],
        lambda p: p.update(ready=done + 1, started=done + 1, processed=done, completed=done),
    )
    started = int(pending)
    _both(
        loops["epoch_loop.val_loop.batch_progress"],
        lambda p: p.update(ready=started, started=started, processed=0, completed=0),
    )
    # The trainer counts this step for the loggers only after the validation; both forms are before that.
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step - 1


def count_in_parts(checkpoint: dict[str, Any], was: int, now: int) -> None:
    """Rewrite the position in `checkpoint`, in place, from `was` accumulated parts a batch to `now`.

    Optimizer steps are what training is counted in; the trainer and the loader count the parts they are made of.
    Raises ValueError for a position within a step that the new parts do not have.
    """
    fit = checkpoint["loops"]["fit_loop"]
    for counts in (fit["epoch_loop.batch_progress"][part] for part in ("total", "current")):
        open_parts = counts["processed"] - counts["completed"]
        counts.update({name: _in_parts(counts[name], was, now) for name in ("ready", "started", "processed")})
        counts["completed"] = counts["processed"] - open_parts
    for loader in fit["state_dict"].get("combined_loader", ()):
        if isinstance(loader, dict) and "t" in loader:
            loader["t"] = _in_parts(loader["t"], was, now)


def _in_parts(count: int, was: int, now: int) -> int:
    if count * now % was:
        raise ValueError(
            f"{count} parts of batches of {was} parts each are no whole number of parts of which {now} are a batch"
        )
    return count * now // was


def validation_due(trainer: pl.Trainer) -> bool:
    """Whether the batch that was just trained is one after which the trainer validates."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return fetcher is not None and bool(trainer.enable_validation and loop.epoch_loop._should_check_val_fx(fetcher))


def between_steps(trainer: pl.Trainer) -> bool:
    """Whether no gradient is being accumulated, so that a checkpoint holds all there is."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def _both(progress: Progress, change: Any) -> None:
    for part in ("total", "current"):
        change(progress[part])
