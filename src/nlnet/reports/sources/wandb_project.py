"""The runs of a W&B project as a report reads them: of each its settings, its summary and, when asked for, its history.

What W&B gives was sent by whoever may write to the project, and is read as a stranger's folder is.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from nlnet.errors import UserError
from nlnet.reports.sources.run_folders import Run, finite

PREFIX = "wandb:"

_MOST = 5000  # runs of a project
_SAMPLES = 500  # of a curve
_LONGEST = 300  # letters of an error
_STEP = "trainer/global_step"
_STATUS = {"crashed": "lost", "killed": "interrupted", "preempted": "interrupted", "preempting": "interrupted",
           "pending": "running"}  # fmt: skip
"""Of W&B's states, those that are called otherwise here: a crashed one has stopped to report itself."""


@dataclass(frozen=True)
class ProjectRun(Run):
    """A run of W&B's, `api_run`, whose `folder` is its name there: `wandb:ENTITY/PROJECT/ID`."""

    api_run: Any

    @property
    def place(self) -> str:
        paths = self.config.get("paths")
        folder = paths.get("run_dir") if isinstance(paths, dict) else None
        return folder if isinstance(folder, str) else str(self.folder)

    @cached_property
    def status(self) -> str:
        return self.text("status")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        return _nested(_mapping(self.api_run.config))

    def curve(self, names: Sequence[str]) -> list[Mapping[str, float]]:
        """At most `_SAMPLES` rows of each of these metrics. Raises UserError where W&B gives none."""
        rows = list[Mapping[str, float]]()
        for name in (name for name in names if name in self.record["metrics"]):
            try:
                found = self.api_run.history(samples=_SAMPLES, keys=[_STEP, name], pandas=False)
                pairs = [(finite(row.get(_STEP)), finite(row.get(name))) for row in found]
            except Exception as error:
                raise _refusal(f"{self.folder}", error) from error
            # The trainer counts a step as done only after it has logged it.
            rows += [{"step": step + 1, name: value} for step, value in pairs if step is not None and value is not None]
        return rows


def runs_of_project(place: str) -> tuple[Sequence[Run], list[str]]:
    """The newest `_MOST` runs of `wandb:ENTITY/PROJECT`, by their names, and a line where it has more.

    Raises UserError for another form, and where W&B gives no such runs.
    """
    entity, _, project = place.removeprefix(PREFIX).partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"{place}: a project of W&B is typed as {PREFIX}ENTITY/PROJECT")
    import wandb

    try:
        api = wandb.Api({"entity": entity, "project": project})
        # Newer clients ask for each run's settings by itself, unless told.
        eager: dict[str, Any] = {"lazy": False} if "lazy" in inspect.signature(api.runs).parameters else {}
        listed = api.runs(f"{entity}/{project}", order="-created_at", include_sweeps=False, **eager)
        found = list(islice(listed, _MOST + 1))
        runs = [_run(place, each) for each in found[:_MOST]]
    except Exception as error:
        raise _refusal(place, error) from error
    more = [f"{place}: only its newest {_MOST:,} runs are read"] if len(found) > _MOST else []
    return sorted(runs, key=lambda run: str(run.folder)), more


def _run(place: str, run: Any) -> Run:
    config, summary = _mapping(run.config), _mapping(run.summary_metrics)
    task = config.get("task")
    record = {
        "status": _STATUS.get(run.state, run.state),
        "experiment": config.get("experiment_name"),
        "size": config.get("size_name"),
        "demo": config.get("demo"),
        "seed": config.get("seed"),
        "monitor": summary.get("monitor", _mapping(task).get("monitor")),
        "seconds": summary.get("seconds", summary.get("_runtime")),
        "parameters": summary.get("parameters"),
        "gmacs": summary.get("gmacs"),
        "metrics": summary,
    }
    attributes = (getattr(run, name, None) for name in ("heartbeat_at", "created_at"))
    written = next((time for time in attributes if isinstance(time, str)), None)
    return ProjectRun(Path(f"{place}/{run.id}"), record, _seconds(written), run)


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with a sweep's dotted parameters, `optim.optimizer.lr`, in their places.

    W&B keeps what a run logs out of those that the sweep has set: `optim` whole, where it has set a part of it.
    """
    nested = dict(config)
    for key, value in config.items():
        *path, last = key.split(".")
        place = nested
        for part in path:
            inner = place.get(part)
            place[part] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[part]
        if path:
            place.setdefault(last, value)
    return nested


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _seconds(written: str | None) -> float:
    """Since 1970; 0 for a time that is none."""
    try:
        return datetime.fromisoformat((written or "").removesuffix("Z")).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _refusal(place: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:_LONGEST].rstrip(".") or type(error).__name__
    if "Could not find project" in said:
        return UserError(f"{place}: there is no such project that this key may read; check ENTITY/PROJECT and the key")
    ways = "check the key (`wandb login`, WANDB_API_KEY), the network and WANDB_BASE_URL"
    return UserError(f"{place}: W&B does not give its runs: {said}; {ways}")
