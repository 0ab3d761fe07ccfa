"""Run folders as data: what is in their files, whoever wrote them, and where they are."""

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nlnet.errors import UserError
from nlnet.reading import read_json, read_text, read_yaml
from nlnet.runs.durability.lock_holder import is_lost
from nlnet.runs.file_names import CONFIG, METRICS, RECORD

STATUSES = ("finished", "running", "interrupted", "failed", "lost")
"""What a run may be; one is lost that says it is running, and whose process is gone."""

# Keys of a command line that change nothing of what is measured.
_OF_THE_MACHINE = {
    "ckpt_path", "experiment", "extras", "group", "hydra", "local", "logger", "paths", "seed", "size", "tags",
    "task_name", "test", "train", "trainer", "callbacks.progress", "data.cache_dir", "data.cache_gb",
    "data.num_workers", "data.parallel_reads", "data.read_ahead_mb", "data.read_timeout_s", "data.shards",
    "data.worker_timeout_s", "trainer.accelerator", "trainer.default_root_dir", "trainer.devices",
    "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.num_nodes", "trainer.strategy",
}  # fmt: skip
_LONGEST = 60  # letters of a setting


@dataclass(frozen=True)
class Run:
    """A run's folder, its `summary.json` and when that was written (seconds since 1970)."""

    folder: Path
    record: Mapping[str, Any]
    written: float

    @property
    def place(self) -> str:
        """Where it ran, by which an evaluation names it."""
        return str(self.folder.absolute())

    def text(self, key: str) -> str:
        """A text of the record; empty where it has none."""
        value = self.record.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> float | None:
        """A finite number of the record."""
        return finite(self.record.get(key))

    def metric(self, name: str) -> float | None:
        """A metric of the last validation or test, as it was logged."""
        metrics = self.record.get("metrics")
        return finite(metrics.get(name)) if isinstance(metrics, dict) else None

    @property
    def seed(self) -> int | None:
        value = self.record.get("seed")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @cached_property
    def status(self) -> str:
        """One of `STATUSES`, or the words of the record where it says something else."""
        said = self.text("status")
        return "lost" if said == "running" and is_lost(self.folder) else said

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The settings in force; empty where there are none that can be read."""
        try:
            content = read_yaml(self.folder / CONFIG)
        except (OSError, UserError):
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def evaluated(self) -> str | None:
        """The folder of the run whose checkpoint this one tests, as a text; None for a training."""
        path = self.config.get("ckpt_path")
        of_a_test = isinstance(self.config.get("protocol"), dict)
        return str(Path(path).parent.parent) if of_a_test and isinstance(path, str) and "\0" not in path else None

    @property
    def protocol(self) -> str:
        """How an evaluation took its views, in a word."""
        protocol = self.config.get("protocol")
        name = protocol.get("name") if isinstance(protocol, dict) else None
        return name if isinstance(name, str) else ""

    @cached_property
    def conditions(self) -> Mapping[str, str]:
        """What was typed besides the experiment, the seed and what belongs to the machine: key -> value, as text."""
        typed = self.config.get("typed")
        names = [name for name in typed if isinstance(name, str)] if isinstance(typed, list) else []
        found = {name: _setting(self.config, name) for name in sorted(names) if not _of_the_machine(name)}
        return {"size": self.text("size") or "full", **found}

    def curve(self, names: Sequence[str]) -> list[Mapping[str, float]]:
        """The rows of `metrics.csv`, each with its `step` and those of these metrics that it has.

        Raises UserError where it cannot be read.
        """
        try:
            text = read_text(self.folder / METRICS)
        except OSError:
            return []
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last row short
        try:
            rows = list(csv.DictReader(whole.splitlines()))
        except csv.Error as error:
            raise UserError(f"{self.folder / METRICS}: cannot be read as a table: {error}") from None
        return [{name: value for name, value in _numbers(row) if name in ("step", *names)} for row in rows]


def runs_below(places: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in and below these folders, in the order of their names, and a line for each that cannot be read.

    Nothing is looked for below a run's own folder. Raises UserError for a folder that is not there.
    """
    runs, broken = dict[str, Run](), []
    for place in places:
        if not place.is_dir():
            ways = "give run folders, folders that hold some, or wandb:ENTITY/PROJECT"
            raise UserError(f"{place}: there is no such folder; {ways}")
        for folder in _run_folders(place):
            try:
                run = _read(folder)
            except (OSError, UserError) as error:
                broken.append(_reason(folder, error))
            else:
                runs.setdefault(os.path.realpath(folder), run)
    return sorted(runs.values(), key=lambda run: str(run.folder)), sorted(set(broken))


def _reason(folder: Path, error: Exception) -> str:
    words = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return words if str(folder) in words else f"{folder}: {words}"


def _run_folders(place: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(place):
        if RECORD in files:
            below.clear()
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _read(folder: Path) -> Run:
    path = folder / RECORD
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("status"), str):
        raise UserError(f"its {RECORD} has no status; it is no run's")
    return Run(folder, record, path.stat().st_mtime)


def _of_the_machine(key: str) -> bool:
    parts = key.split(".")
    prefixes = {".".join(parts[:count]) for count in range(1, len(parts) + 1)} - ({"trainer"} if parts[1:] else set())
    return not _OF_THE_MACHINE.isdisjoint(prefixes)


def _setting(config: Mapping[str, Any], key: str) -> str:
    value: Any = config
    for part in key.replace("/", ".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return f"{value}"[:_LONGEST]


def _numbers(row: Mapping[str | None, Any]) -> Iterator[tuple[str, float]]:
    for name, cell in row.items():
        if isinstance(name, str) and isinstance(cell, str) and cell:
            try:
                value = float(cell)
            except ValueError:
                continue
            if math.isfinite(value):
                yield name, value


def finite(value: Any) -> float | None:
    """A value of a file as a number; None where it is none, or not finite."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
