"""Which runs are a row's: by the recipe, whatever it is called, and only runs under the same conditions together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nlnet.config.compose import options
from nlnet.config.search_path import search_path
from nlnet.errors import UserError
from nlnet.reading import read_yaml
from nlnet.reports.sources.run_folders import Run

_OF_TRAINING = ("", "center")
"""Protocols of evaluations that test as training's own validation does."""


@dataclass(frozen=True)
class Measured:
    """A run and where its figures are from: the newest evaluation of one protocol, or its own last validation."""

    run: Run
    tested: Run

    @property
    def conditions(self) -> Mapping[str, str]:
        """What runs have to share to be put together: what was typed, and the protocol of the test."""
        protocol = self.tested.protocol
        return {**self.run.conditions, **({} if protocol in _OF_TRAINING else {"protocol": protocol})}

    @property
    def finished(self) -> bool:
        return self.run.status == self.tested.status == "finished"

    @property
    def trained(self) -> bool:
        """Whether `run` is the training, not a test of one whose folder is not here."""
        return self.run.evaluated is None


def measured(runs: Sequence[Run]) -> list[Measured]:
    """Each training once for each protocol by which it was tested; a test without its training stands for itself."""
    tests: dict[str, dict[str, Run]] = {}
    trainings = [run for run in runs if run.evaluated is None]
    places = {run.place for run in trainings}
    alone = []
    for run in sorted(runs, key=lambda run: run.written):
        if (place := run.evaluated) is None:
            continue
        if place not in places:
            alone.append(Measured(run, run))
        elif run.status == "finished":
            name = "" if run.protocol in _OF_TRAINING else run.protocol
            tests.setdefault(place, {})[name] = run  # the newest
    found = []
    for run in trainings:
        found += [Measured(run, test) for test in {"": run, **tests.get(run.place, {})}.values()]
    return found + alone


def recipes(experiments: Iterable[str]) -> dict[str, str]:
    """Each experiment -> the one that it is another name of, itself where it is none."""
    known = set(options("experiment"))
    return {name: _recipe(name, known) for name in {*experiments}}


def _recipe(experiment: str, known: set[str]) -> str:
    seen = [experiment]
    while seen[-1] in known and (other := _other_name(seen[-1])) and other not in seen:
        seen.append(other)
    return seen[-1]


def _other_name(experiment: str) -> str | None:
    """The experiment that the file of this one names, where it says nothing else."""
    path = next(p for root in search_path() if (p := root / "experiment" / f"{experiment}.yaml").is_file())
    try:
        content = read_yaml(path)
    except UserError:
        return None
    if not isinstance(content, dict) or set(content) != {"defaults"}:
        return None
    defaults = content["defaults"]
    return defaults[0] if isinstance(defaults, list) and len(defaults) == 1 and isinstance(defaults[0], str) else None


def by_conditions(items: Sequence[Measured]) -> list[tuple[Mapping[str, str], list[Measured]]]:
    """The items that share their conditions, in the order in which the first of each comes."""
    groups: dict[tuple[tuple[str, str], ...], list[Measured]] = {}
    for item in items:
        groups.setdefault(tuple(sorted(item.conditions.items())), []).append(item)
    return [(dict(key), found) for key, found in groups.items()]


def one_a_seed(items: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """The newest of each seed, by seed, and the others: two runs of one seed are no two samples."""
    newest: dict[int | None, Measured] = {}
    for item in sorted(items, key=lambda item: (item.run.written, str(item.run.folder))):
        newest[item.run.seed] = item
    kept = sorted(newest.values(), key=lambda item: (item.run.seed is None, item.run.seed or 0))
    return kept, [item for item in items if item not in kept]
