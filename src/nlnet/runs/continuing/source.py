"""The checkpoint that a run starts from: read once, before anything is made, and held against the run afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging

from nlnet.checkpoints.files import LAST, PREVIOUS, read_file
from nlnet.checkpoints.mismatch import check_fits
from nlnet.checkpoints.pretrained import run_state
from nlnet.distributed import print_once
from nlnet.errors import UserError
from nlnet.runs.callbacks.loop_state import count_in_parts
from nlnet.runs.continuing.differences import differences
from nlnet.runs.continuing.kept import with_kept_settings
from nlnet.runs.identity.resumed import KEY, check_continued, check_evaluated
from nlnet.runs.start import Run


@dataclass(frozen=True)
class Source:
    """A checkpoint and its file."""

    path: Path
    checkpoint: dict[str, Any]

    @property
    def where(self) -> str:
        return f"ckpt_path={self.path}"


def opened(cfg: DictConfig) -> tuple[DictConfig, Source | None]:
    """The checkpoint that `ckpt_path` names, and `cfg` with those of its settings that this run keeps.

    `cfg` has the run's folder already. Raises UserError where there is no such checkpoint, and where none is given and
    random weights would be tested.
    """
    if not cfg.ckpt_path:
        if not cfg.train:
            _refuse_random_weights(cfg)
        return cfg, None
    folder = Path(cfg.paths.run_dir) / "checkpoints"
    source = _read_last(folder) if cfg.ckpt_path == "last" else _read(Path(cfg.ckpt_path))
    return (with_kept_settings(cfg, source.checkpoint, source.where) if cfg.train else cfg), source


def check_source(source: Source, run: Run, trainer: pl.Trainer) -> list[str]:
    """Look at the checkpoint before the trainer does; returns the settings that this run has otherwise, by dotted key.

    For `train=false` its weights are loaded here. Raises UserError for one that this run cannot start from.
    """
    checkpoint, where = source.checkpoint, source.where
    if not run.cfg.train:
        state = run_state(checkpoint, where)
        check_fits(state, run.task.state_dict(), where)
        check_evaluated(checkpoint, run.data, run.cfg, where)
        run.task.load_state_dict(state)
        print_once(f"testing {source.path}")
        return []
    if not isinstance(checkpoint.get("state_dict"), Mapping) or not isinstance(checkpoint.get("global_step"), int):
        raise UserError(f"{where}: not a checkpoint of a run; to start from its weights set init.checkpoint")
    check_fits(checkpoint["state_dict"], run.task.state_dict(), where)
    check_continued(checkpoint, run.data, trainer.world_size, run.cfg, where)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        _refuse_inexact(callback, where)
    _leave_out_state(checkpoint, trainer)
    _count_in_parts(checkpoint, run.cfg, trainer, where)
    if changed := differences(checkpoint, run.cfg):
        print_once(f"continuing with settings that differ from the checkpoint's: {', '.join(changed)}")
    print_once(f"continuing {source.path} after step {checkpoint['global_step']}")
    return [text.partition("=")[0] for text in changed]


def _refuse_inexact(callback: Callback, where: str) -> None:
    """Averages of weights whose callbacks do not save all of their state."""
    by_epoch = isinstance(callback, EMAWeightAveraging) and callback.update_starting_at_epoch is not None
    if by_epoch or isinstance(callback, StochasticWeightAveraging):
        name = f"{type(callback).__name__}{' with update_starting_at_epoch' if by_epoch else ''}"
        raise UserError(
            f"{where}: a run with the callback {name} cannot be continued exactly, as it does not save when it"
            " averaged; train without a stop, leave the callback out, or take EMAWeightAveraging by steps"
        )


def _leave_out_state(checkpoint: dict[str, Any], trainer: pl.Trainer) -> None:
    """The state of callbacks that this run does not have, or has with another metric, is left out, and that is said."""
    states = checkpoint.get("callbacks")
    own = {callback.state_key for callback in trainer.callbacks}  # type: ignore[attr-defined]
    if isinstance(states, Mapping) and (left := [str(key) for key in states if key not in own]):
        checkpoint["callbacks"] = {key: state for key, state in states.items() if key in own}
        names = ", ".join(key.partition("{")[0] for key in left)
        print_once(f"not continued, as this run has no such callback, or with other settings: {names}")


def _count_in_parts(checkpoint: dict[str, Any], cfg: DictConfig, trainer: pl.Trainer, where: str) -> None:
    """The position of a run with another `trainer.accumulate_grad_batches`, as on fewer devices, in this one's."""
    saved = checkpoint.get("hyper_parameters", {}).get("trainer")
    was = saved.get("accumulate_grad_batches") if isinstance(saved, Mapping) else None
    now = trainer.accumulate_grad_batches
    if not isinstance(was, int) or was < 1:
        return
    if was > 1 and "digest" not in (checkpoint.get(KEY) or {}):
        _check_batch_of_earlier(checkpoint, cfg, was, where)
    if was == now:
        return
    try:
        count_in_parts(checkpoint, was, now)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: trainer.accumulate_grad_batches={now} cannot go on from its position, as it has {was}: {error};"
            f" continue it with {was}"
        ) from error


def _check_batch_of_earlier(checkpoint: Mapping[str, Any], cfg: DictConfig, parts: int, where: str) -> None:
    """Earlier versions took `data.batch_size` for that of one accumulated part."""
    data = checkpoint["hyper_parameters"].get("data")
    size = data.get("batch_size") if isinstance(data, Mapping) else None
    if isinstance(size, int) and cfg.data.get("batch_size") != size * parts:
        raise UserError(
            f"{where}: of an earlier version, in which data.batch_size={size} was that of each of its {parts}"
            f" accumulated parts; now it is that of a step: continue it with data.batch_size={size * parts}"
        )


def _refuse_random_weights(cfg: DictConfig) -> None:
    if not cfg.test:
        raise UserError("train=false test=false: there is nothing to do; set one of them to true")
    if not (cfg.get("init") or {}).get("checkpoint"):
        raise UserError(
            "train=false test=true: random weights would be tested; give ckpt_path=RUN or its checkpoint, or"
            " init.checkpoint=FILE"
        )


def _read(path: Path) -> Source:
    return Source(path, read_file(path, "ckpt_path="))


def _read_last(folder: Path) -> Source:
    """`last.ckpt`, or the one before it where it is missing or damaged."""
    try:
        return _read(folder / LAST)
    except UserError:
        if not (folder / PREVIOUS).is_file():
            raise
        what = "damaged" if (folder / LAST).is_file() else "missing"
        print_once(f"ckpt_path=last: {folder / LAST} is {what}; continuing the checkpoint before it")
        return _read(folder / PREVIOUS)
