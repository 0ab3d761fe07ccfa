"""`nlnet-runs [FOLDER...] [status=...] [experiment=...] [sort=...]`: the runs below a folder, the newest first."""

import argparse
from pathlib import Path

from nlnet.cli.errors import run
from nlnet.config.words import split_places
from nlnet.reports.listing import SORTS, listing, select
from nlnet.reports.sources.find import find_runs
from nlnet.reports.sources.run_folders import STATUSES
from nlnet.text import say

_KEYS = ("status", "experiment", "sort")


def main() -> None:
    """The console command `nlnet-runs`."""
    run(_list)


def _list() -> None:
    known = f"status={'|'.join(STATUSES)}, experiment=table2a_* and sort={'|'.join(SORTS)} choose and order them."
    parser = argparse.ArgumentParser(prog="nlnet-runs", description=__doc__, epilog=known)
    parser.add_argument(
        "words", nargs="*", metavar="FOLDER", help="where to look, also wandb:ENTITY/PROJECT (default: logs)"
    )
    places, values = split_places(parser.parse_args().words, _KEYS)
    places = places or [Path("logs")]
    runs, broken = find_runs(places)
    chosen = select(
        runs, status=values.get("status"), experiment=values.get("experiment"), sort=values.get("sort", "newest")
    )
    for text in listing(chosen, places[0]) if chosen else []:
        say(text)
    if len(chosen) != len(runs) or not runs:
        say(f"{len(chosen)} of {len(runs)} runs below {', '.join(map(str, places))}")
    for note in broken:
        say(f"cannot be read: {note}", error=True)


if __name__ == "__main__":
    main()
