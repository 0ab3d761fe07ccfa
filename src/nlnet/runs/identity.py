"""A run's folder: its name, finding the newest one to continue, and the record of what it is."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nlnet.errors import UserError

RECORD = "summary.json"


@dataclass(frozen=True)
class Identity:
    """What makes two runs the same work: only such a run is continued by `ckpt_path=last`."""

    task_name: str
    experiment: str | None
    demo: bool

    def matches(self, record: Mapping[str, Any]) -> bool:
        return all(
            record.get(key) == value
            for key, value in (("task_name", self.task_name), ("experiment", self.experiment), ("demo", self.demo))
        )


def new_run_dir(identity: Identity, log_dir: Path, *, job: str | None = None, env: Mapping[str, str]) -> Path:
    """A folder for a new run: `<log_dir>/<task>/runs/<when>_<experiment>[-demo]`.

    Under Slurm or torchrun `<when>` is the job's id, and a job that was requeued or restarted has its folder back.
    `job` is the place in a multirun.
    """
    launched = env.get("SLURM_JOB_ID") or env.get("TORCHELASTIC_RUN_ID", "none")
    when = f"job-{launched}" if launched != "none" else datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name = "_".join(part for part in (when, identity.experiment, job) if part) + ("-demo" if identity.demo else "")
    folder = log_dir / identity.task_name / "runs" / name
    # The ranks of a job start together and agree on the folder without a word: the first one alone looks further, and
    # does not take a folder that another has just made for one of an earlier run.
    mark = "" if launched == "none" else "summary.json"
    attempt = 2
    while _rank(env) == 0 and (folder / mark).exists() and not was_restarted(env):
        folder = folder.with_name(f"{name}-{attempt}")
        attempt += 1
    return folder


def _rank(env: Mapping[str, str]) -> int:
    return int(env.get("SLURM_PROCID") or env.get("RANK") or 0)


def was_restarted(env: Mapping[str, str]) -> bool:
    """Whether Slurm has requeued this job, or torchrun restarted its processes."""
    return any(int(env.get(name, "0")) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def create(folder: Path) -> None:
    """Make the run's folder, or say in one line why that is not possible."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write the run directory {folder}: {error.strerror}; choose another with paths.log_dir=FOLDER"
        ) from error


def last_run_dir(identity: Identity, log_dir: Path) -> Path:
    """The run folder of this identity whose `last.ckpt` is newest. Raises UserError where there is none."""
    found = [
        checkpoint
        for checkpoint in (log_dir / identity.task_name).glob("*/*/checkpoints/last.ckpt")
        if identity.matches(read_record(checkpoint.parents[1]))
    ]
    if not found:
        kind = "demo of " if identity.demo else ""
        raise UserError(
            f"ckpt_path=last: no checkpoints/last.ckpt of {kind}experiment={identity.experiment} under"
            f" {log_dir / identity.task_name}; leave ckpt_path out to start, or name a checkpoint file"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns).parents[1]


def read_record(folder: Path) -> dict[str, Any]:
    """The run's `summary.json`, empty where there is none that can be read."""
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Replace the run's `summary.json` in one step."""
    temporary = folder / f"{RECORD}.tmp"
    temporary.write_text(json.dumps(record, indent=2, allow_nan=True) + "\n")
    os.replace(temporary, folder / RECORD)
