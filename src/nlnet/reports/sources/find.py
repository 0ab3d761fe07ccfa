"""The runs of the places that are typed, of whichever kind each is."""

from collections.abc import Sequence
from pathlib import Path

from nlnet.reports.sources.run_folders import Run, runs_below
from nlnet.reports.sources.wandb_project import PREFIX, runs_of_project


def find_runs(places: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in and below these folders, then those of the projects `wandb:ENTITY/PROJECT`, and a line for each that
    cannot be read.

    Raises UserError for a folder or a project that is not there.
    """
    projects = [place for place in dict.fromkeys(map(str, places)) if place.startswith(PREFIX)]
    runs, broken = runs_below([place for place in places if not str(place).startswith(PREFIX)])
    for place in projects:
        found, notes = runs_of_project(place)
        runs, broken = [*runs, *found], [*broken, *notes]
    return runs, broken
