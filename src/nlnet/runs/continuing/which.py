"""Which folder a run has, and which run and checkpoint `ckpt_path` names: a file, a run's folder, or `last`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nlnet.checkpoints.files import LAST
from nlnet.config.resolve import changed
from nlnet.distributed import print_once, rank
from nlnet.errors import UserError
from nlnet.runs.continuing.point import job_number, swept
from nlnet.runs.file_names import CONFIG, RECORD
from nlnet.runs.run_dir import (
    RunKey,
    best_checkpoint,
    discard,
    goes_on,
    identity,
    new_run_dir,
    newest_checkpoint,
    refuse_taken,
)

_HANDED_DOWN = "NLNET_RUN_DIR"
"""The environment variable by which a process tells the ranks that Lightning starts from it their folder."""


@contextmanager
def run_folder(cfg: DictConfig) -> Iterator[DictConfig]:
    """`cfg` with the folder of this run in `paths.run_dir`; every process gets the same one.

    Where what follows fails before anything is done in a new folder, it is gone again.
    """
    cfg = with_run_dir(cfg)
    try:
        yield cfg
    except BaseException:
        folder = Path(cfg.paths.run_dir)
        if not (folder / RECORD).exists():
            discard(folder)
        raise


def with_run_dir(cfg: DictConfig) -> DictConfig:
    """`cfg` with the folder of this run, and in `ckpt_path` what it continues: "last" there, or a file of elsewhere.

    A run goes on in its own folder. One that only looks, by `train=false` or `trainer.fast_dev_run`, has another: the
    records of the run that it looks at stay as they are. A job that its scheduler has started again goes on where it
    was. Raises UserError where there is no run to continue, and where a new one would write over another.
    """
    given = Path(cfg.paths.run_dir).absolute() if cfg.paths.run_dir else None
    key = RunKey(cfg.task_name, cfg.experiment_name, cfg.demo, swept())
    source = _continued(cfg, key, given)
    looks = not cfg.get("train", True) or bool(cfg.trainer.get("fast_dev_run"))
    values: dict[str, Any] = {}
    if source and (looks or given not in (None, source)):
        values["ckpt_path"] = str(_checkpoint_of(source, best=not cfg.get("train", True)))
        given = None if given == source else given
    elif source:
        values["ckpt_path"], given = "last", source
    if looks and given and (given / RECORD).exists():
        raise UserError(
            f"paths.run_dir={given}: holds the records of a run, which train=false and trainer.fast_dev_run leave as"
            " they are; leave paths.run_dir out"
        )
    if given and not looks and values.get("ckpt_path") != "last" and _is_new_there(cfg, given):
        refuse_taken(given)
    log_dir = Path(cfg.paths.log_dir).absolute()
    folder = _handed_down() or given or new_run_dir(key, log_dir, job=job_number(cfg), env=os.environ)
    os.environ[_HANDED_DOWN] = f"{os.getpid()}:{folder}"
    # A checkpoint of elsewhere was where this job began, and its own are further on, in a folder that is all its own.
    begun = not cfg.ckpt_path or (not looks and not cfg.paths.run_dir and source is None)
    if begun and goes_on(folder, os.environ) and newest_checkpoint(folder) is not None:
        values["ckpt_path"] = "last"
    return changed(cfg, {"paths.run_dir": str(folder)} | values)


def evaluated_checkpoint(ckpt_path: str, log_dir: Path, task_name: str | None, experiment: str | None) -> Path:
    """The best checkpoint, else the newest, of a run's folder, or for `last` of the newest run.

    Of any task but "eval" where none is named, and of any experiment. Raises UserError where there is none.
    """
    if ckpt_path != "last":
        return _checkpoint_of(_folder_of_run(Path(ckpt_path)), best=True)
    found = {}
    for path in log_dir.absolute().glob(f"{task_name or '*'}/*/*/checkpoints"):
        newest, record = newest_checkpoint(path.parent), identity(path.parent)
        if newest is not None and experiment in (None, record.get("experiment")):
            found[newest.stat().st_mtime_ns] = path.parent
    if not found:
        what = f" of experiment={experiment}" if experiment else ""
        raise UserError(f"ckpt_path=last: no run with a checkpoint{what} under {log_dir}; name a checkpoint file")
    return _checkpoint_of(found[max(found)], best=True)


def last_run_dir(key: RunKey, log_dir: Path) -> Path:
    """The run folder of this key whose newest checkpoint is newest.

    A newer one that holds no checkpoint yet is named. Raises UserError where there is none, and where nothing says
    which work a newer one is.
    """
    records = {path.parent: identity(path.parent) for path in (log_dir / key.task_name).glob("*/*/checkpoints")}
    ages = {folder: path.stat().st_mtime_ns for folder in records if (path := newest_checkpoint(folder))}
    mine = sorted((folder for folder in ages if key.matches(records[folder])), key=lambda folder: ages[folder])
    unknown = [folder for folder in ages if not records[folder] and (not mine or ages[folder] > ages[mine[-1]])]
    if unknown:
        newest = max(unknown, key=lambda folder: ages[folder])
        raise UserError(
            f"ckpt_path=last: {newest} is the newest with a checkpoint, and neither its {RECORD} nor its {CONFIG} says"
            " what it is a run of; say which you mean with paths.run_dir=FOLDER"
        )
    if not mine:
        raise UserError(
            f"ckpt_path=last: no checkpoints/{LAST} of {key} under {log_dir / key.task_name}; leave ckpt_path out to"
            " start, or name a checkpoint file"
        )
    chosen = mine[-1]
    later = [f for f in records if f not in ages and key.matches(records[f]) and f.stat().st_mtime_ns > ages[chosen]]
    for folder in later:
        print_once(f"ckpt_path=last: {folder} is newer and has no checkpoint; continuing {chosen.name}")
    return chosen


def _continued(cfg: DictConfig, key: RunKey, given: Path | None) -> Path | None:
    """The folder of the run that is continued as a whole; None for a checkpoint file, and for a new run."""
    if cfg.ckpt_path == "last":
        return given or last_run_dir(key, Path(cfg.paths.log_dir).absolute())
    if not cfg.ckpt_path or not Path(cfg.ckpt_path).is_dir():
        return None
    folder = _folder_of_run(Path(cfg.ckpt_path))
    _checkpoint_of(folder, best=False)
    return folder


def _is_new_there(cfg: DictConfig, folder: Path) -> bool:
    """Whether this process begins a run in `folder`: the first rank of one, not started again, from no file of it."""
    own = cfg.ckpt_path and Path(cfg.ckpt_path).resolve().parent == (folder / "checkpoints").resolve()
    return rank() == 0 and not own and not goes_on(folder, os.environ)


def _folder_of_run(path: Path) -> Path:
    folder = path.absolute()
    return folder.parent if folder.name == "checkpoints" else folder


def _checkpoint_of(folder: Path, *, best: bool) -> Path:
    found = best_checkpoint(folder) if best else newest_checkpoint(folder)
    if found is None:
        raise UserError(
            f"ckpt_path={folder}: no checkpoints/{LAST} in this folder; give a run's folder or a file in it"
        )
    return found


def _handed_down() -> Path | None:
    """The folder of the process that started this one as another rank of its run."""
    process, _, folder = os.environ.get(_HANDED_DOWN, "").partition(":")
    # Of another process it is a run before this one, whose environment a launcher has passed on.
    return Path(folder) if "LOCAL_RANK" in os.environ and process == str(os.getppid()) else None
