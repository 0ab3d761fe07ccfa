"""A run's folder: its name, and the small record in it by which it is found."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nlnet.checkpoints.files import BEST, LAST, PREVIOUS
from nlnet.distributed import rank
from nlnet.errors import UserError
from nlnet.reading import read_json, read_yaml
from nlnet.runs.file_names import CONFIG, RECORD
from nlnet.saving import write_json
from nlnet.text import masked

# Equally long.
_RUNNING, _FAILED = b'"status": "running"', b'"status": "failed" '


@dataclass(frozen=True)
class RunKey:
    """What makes two runs the same work: only such a run is continued by `ckpt_path=last`."""

    task_name: str
    experiment: str | None
    demo: bool
    point: Sequence[str] | None = None
    """What makes this run its own among those of a multirun, such as ["seed=0"]; None outside of one."""

    def matches(self, record: Mapping[str, Any]) -> bool:
        same = (("task_name", self.task_name), ("experiment", self.experiment), ("demo", self.demo))
        mine = self.point is None or record.get("point") == list(self.point)
        return mine and all(record.get(key) == value for key, value in same)

    def __str__(self) -> str:
        demo = "demo of " if self.demo else ""
        return f"{demo}experiment={self.experiment}{''.join(f' {word}' for word in self.point or ())}"


def new_run_dir(key: RunKey, log_dir: Path, *, job: str | None = None, env: Mapping[str, str]) -> Path:
    """A folder for a new run, which is made: `<log_dir>/<task>/runs/<when>_<experiment>[-demo]`.

    Under Slurm or torchrun `<when>` is the job's id, and a job that was requeued or restarted has its folder back;
    there it is only named. `job` is the index in a multirun. Raises UserError where it cannot be made, and where a
    restarted job could not find it again.
    """
    launched = env.get("SLURM_JOB_ID") or env.get("TORCHELASTIC_RUN_ID", "none")
    if launched == "none" and int(env.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise UserError(
            f"torchrun --max-restarts={env['TORCHELASTIC_MAX_RESTARTS']}: a run that is restarted finds its folder by"
            " the job's id; give torchrun one with --rdzv-backend c10d --rdzv-id NAME, or set paths.run_dir=FOLDER"
        )
    when = f"job-{launched}" if launched != "none" else datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    experiment = (key.experiment or "").replace("/", "-")
    name = "_".join(part for part in (when, experiment, job) if part) + ("-demo" if key.demo else "")
    folder = log_dir / key.task_name / "runs" / name
    attempt = 2
    while _is_taken(folder, env, make=launched == "none"):
        folder = folder.with_name(f"{name}-{attempt}")
        attempt += 1
    return folder


def _is_taken(folder: Path, env: Mapping[str, str], *, make: bool) -> bool:
    """Whether another run is there. With torchrun every rank looks for itself, and finds the same."""
    if _has_torchrun_id(env):
        status = read_record(folder).get("status")
        return status == "finished" or (status is None and rank(env) == 0 and (folder / RECORD).exists())
    return rank(env) == 0 and not was_restarted(env) and not _is_free(folder, make=make)


def _is_free(folder: Path, *, make: bool) -> bool:
    """Whether no other run is there. To `make` it is to take it: of several processes one alone succeeds.

    The ranks of a job start together and agree on the folder without a word: the first one alone looks further, and
    does not take a folder that another has just made for one of an earlier run.
    """
    if not make:
        return not (folder / RECORD).exists()
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise _cannot_write(folder, "there is a file in its place") from None
        return False
    except OSError as error:
        raise _cannot_write(folder, error.strerror) from error
    return True


def was_restarted(env: Mapping[str, str]) -> bool:
    """Whether Slurm has requeued this job, or this machine's torchrun restarted its processes."""
    return any(int(env.get(name, "0")) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def may_be_restarted(env: Mapping[str, str]) -> bool:
    """Whether it can be that this job was started before, and that processes of then are still ending."""
    return was_restarted(env) or _has_torchrun_id(env)


def goes_on(folder: Path, env: Mapping[str, str]) -> bool:
    """Whether this process belongs to the run in `folder`, started again.

    The torchrun of every machine counts its own restarts alone, and one that was started anew begins at 0. So it is the
    folder that says it: its run has this job's id, and has not finished.
    """
    return was_restarted(env) or (_has_torchrun_id(env) and read_record(folder).get("status") not in (None, "finished"))


def _has_torchrun_id(env: Mapping[str, str]) -> bool:
    return env.get("TORCHELASTIC_RUN_ID", "none") != "none"


def create(folder: Path) -> None:
    """Make the run's folder. Raises UserError where that is not possible."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _cannot_write(folder, error.strerror) from error


def _cannot_write(folder: Path, why: str | None) -> UserError:
    return UserError(f"cannot write the run directory {folder}: {why}; choose another with paths.log_dir=FOLDER")


def discard(folder: Path) -> None:
    """Remove a folder in which no run has done anything: it holds its record and settings at most."""
    if rank() > 0:
        return
    with suppress(OSError):
        own = {RECORD, CONFIG, "checkpoints", ".lock"}
        checkpoints = folder / "checkpoints"
        if own.issuperset(path.name for path in folder.iterdir()) and not any(checkpoints.glob("*")):
            for name in (RECORD, CONFIG):
                (folder / name).unlink(missing_ok=True)
            if checkpoints.is_dir():
                checkpoints.rmdir()
            folder.rmdir()


def newest_checkpoint(folder: Path) -> Path | None:
    """The run's `last.ckpt`, or where it is missing the one before it; None where there is none."""
    paths = [folder / "checkpoints" / name for name in (LAST, PREVIOUS)]
    return next((path for path in paths if path.is_file()), None)


def refuse_taken(folder: Path) -> None:
    """Raises UserError where a new run in `folder` would write over the work of one that is there.

    That is its checkpoints, and the record of one that is finished. One that ended before its first checkpoint has left
    nothing to go on from, so its folder may be had again.
    """
    newest = newest_checkpoint(folder)
    checkpoints = sorted((folder / "checkpoints").glob("*.ckpt"))
    finished = read_record(folder).get("status") == "finished"
    if not checkpoints and not finished:
        return
    held = [f"checkpoints/{path.name}" for path in checkpoints[:3]] + (["..."] if len(checkpoints) > 3 else [])
    held += [f"the {RECORD} of a finished run"] if finished else []
    goes_on = f"go on with {'ckpt_path=last' if newest else f'ckpt_path={checkpoints[0]}'}, or " if checkpoints else ""
    raise UserError(
        f"paths.run_dir={folder}: holds {', '.join(held)}, which a new run would write over; {goes_on}choose another"
        " folder, or leave paths.run_dir out"
    )


def best_checkpoint(folder: Path) -> Path | None:
    """The run's checkpoint of the best metric, whatever it is called, or else its newest; None where there is none."""
    named = str(read_record(folder).get("best_checkpoint") or BEST)
    path = folder / "checkpoints" / Path(named).name
    return path if path.is_file() else newest_checkpoint(folder)


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
