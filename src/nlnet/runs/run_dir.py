"""A run's folder: its name, finding the newest one to continue, and the small record in it by which it is found."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from nlnet.checkpoints.files import LAST, PREVIOUS
from nlnet.config.resolve import changed
from nlnet.distributed import print_once, rank
from nlnet.errors import UserError
from nlnet.reading import read_json, read_yaml
from nlnet.saving import write_json
from nlnet.text import masked

RECORD, CONFIG = "summary.json", "config.yaml"

# Equally long.
_RUNNING, _FAILED = b'"status": "running"', b'"status": "failed" '

_HANDED_DOWN = "NLNET_RUN_DIR"
"""The environment variable by which a process tells the ranks that Lightning starts from it their folder."""


@dataclass(frozen=True)
class RunKey:
    """What makes two runs the same work: only such a run is continued by `ckpt_path=last`."""

    task_name: str
    experiment: str | None
    demo: bool

    def matches(self, record: Mapping[str, Any]) -> bool:
        return all(
            record.get(key) == value
            for key, value in (("task_name", self.task_name), ("experiment", self.experiment), ("demo", self.demo))
        )


def with_run_dir(cfg: DictConfig) -> DictConfig:
    """`cfg` with the folder of this run in `paths.run_dir`; every process gets the same one. Nothing is made yet.

    A job that its scheduler has started again goes on where it was: its `ckpt_path` is then "last".
    Raises UserError where there is no run to continue.
    """
    key, log_dir = RunKey(cfg.task_name, cfg.experiment_name, cfg.demo), Path(cfg.paths.log_dir).absolute()
    if handed_down := _handed_down():
        folder = handed_down
    elif cfg.paths.run_dir:
        folder = Path(cfg.paths.run_dir).absolute()
    elif cfg.ckpt_path == "last":
        folder = last_run_dir(key, log_dir)
    else:
        folder = new_run_dir(key, log_dir, job=_multirun_job(cfg), env=os.environ)
    os.environ[_HANDED_DOWN] = f"{os.getpid()}:{folder}"
    goes_on = not cfg.ckpt_path and was_restarted(os.environ) and newest_checkpoint(folder) is not None
    return changed(cfg, {"paths.run_dir": str(folder)} | ({"ckpt_path": "last"} if goes_on else {}))


def new_run_dir(key: RunKey, log_dir: Path, *, job: str | None = None, env: Mapping[str, str]) -> Path:
    """A folder for a new run: `<log_dir>/<task>/runs/<when>_<experiment>[-demo]`.

    Under Slurm or torchrun `<when>` is the job's id, and a job that was requeued or restarted has its folder back.
    `job` is the index in a multirun.
    """
    launched = env.get("SLURM_JOB_ID") or env.get("TORCHELASTIC_RUN_ID", "none")
    when = f"job-{launched}" if launched != "none" else datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name = "_".join(part for part in (when, key.experiment, job) if part) + ("-demo" if key.demo else "")
    folder = log_dir / key.task_name / "runs" / name
    # The ranks of a job start together and agree on the folder without a word: the first one alone looks further, and
    # does not take a folder that another has just made for one of an earlier run.
    mark = "" if launched == "none" else RECORD
    attempt = 2
    while rank(env) == 0 and (folder / mark).exists() and not was_restarted(env):
        folder = folder.with_name(f"{name}-{attempt}")
        attempt += 1
    return folder


def was_restarted(env: Mapping[str, str]) -> bool:
    """Whether Slurm has requeued this job, or torchrun restarted its processes."""
    return any(int(env.get(name, "0")) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def create(folder: Path) -> None:
    """Make the run's folder. Raises UserError where that is not possible."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write the run directory {folder}: {error.strerror}; choose another with paths.log_dir=FOLDER"
        ) from error


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
        kind = "demo of " if key.demo else ""
        raise UserError(
            f"ckpt_path=last: no checkpoints/last.ckpt of {kind}experiment={key.experiment} under"
            f" {log_dir / key.task_name}; leave ckpt_path out to start, or name a checkpoint file"
        )
    chosen = mine[-1]
    later = [f for f in records if f not in ages and key.matches(records[f]) and f.stat().st_mtime_ns > ages[chosen]]
    for folder in later:
        print_once(f"ckpt_path=last: {folder} is newer and has no checkpoint; continuing {chosen.name}")
    return chosen


def newest_checkpoint(folder: Path) -> Path | None:
    """The run's `last.ckpt`, or where it is missing the one before it; None where there is none."""
    paths = [folder / "checkpoints" / name for name in (LAST, PREVIOUS)]
    return next((path for path in paths if path.is_file()), None)


def identity(folder: Path) -> dict[str, Any]:
    """What the run is of, as in its `summary.json`, or else by its `config.yaml`; empty where neither says it."""
    record = read_record(folder)
    if "task_name" in record:
        return record
    try:
        config = read_yaml(folder / CONFIG)
        return {"task_name": config["task_name"], "experiment": config["experiment_name"], "demo": config["demo"]}
    except (OSError, UserError, KeyError, TypeError):
        return {}


def read_record(folder: Path) -> dict[str, Any]:
    """The run's `summary.json`, empty where there is none that can be read."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, UserError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Replace the run's `summary.json` in one step. Raises UserError if the disk does not take it."""
    write_json(folder / RECORD, masked(record))


def mark_failed(folder: Path) -> bool:
    """Change the status in `summary.json` where it lies, as a full disk still allows; whether that was possible."""
    try:
        with open(folder / RECORD, "rb+") as file:
            content = file.read()
            file.seek(content.index(_RUNNING))
            file.write(_FAILED)
        return True
    except (OSError, ValueError):
        return False


def _handed_down() -> Path | None:
    """The folder of the process that started this one as another rank of its run."""
    process, _, folder = os.environ.get(_HANDED_DOWN, "").partition(":")
    # Of another process it is a run before this one, whose environment a launcher has passed on.
    return Path(folder) if "LOCAL_RANK" in os.environ and process == str(os.getppid()) else None


def _multirun_job(cfg: DictConfig) -> str | None:
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    if "ddp" in str(cfg.trainer.strategy) and cfg.trainer.devices not in (1, "1"):
        raise UserError(
            f"trainer.strategy={cfg.trainer.strategy} starts its processes by running the command line again, which"
            " in a multirun (-m) would be the whole sweep; start the points one by one, or with torchrun"
        )
    return str(HydraConfig.get().job.num)
