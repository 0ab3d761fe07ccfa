"""`python src/report.py RUNS... [table=NAME,...] [out=FOLDER]`: the paper's tables with the figures of these runs."""

import argparse
from pathlib import Path

from nlnet.cli.errors import run
from nlnet.config.words import split_places
from nlnet.errors import UserError
from nlnet.reports.texts import heading
from nlnet.reports.write import FILES, write_report
from nlnet.text import say

_KEYS = ("table", "out")


def main() -> None:
    """The console command `nlnet-report`."""
    run(_report)


def _report() -> None:
    parser = argparse.ArgumentParser(prog="nlnet-report", description=__doc__)
    parser.add_argument(
        "words", nargs="*", metavar="RUNS", help="run folders, folders that hold some, and wandb:ENTITY/PROJECT"
    )
    parser.add_argument("--config-dir", "-cd", metavar="FOLDER", help="your own configurations, with tables/NAME.yaml")
    places, values = split_places(parser.parse_args().words, _KEYS)
    if not places:
        raise UserError("no folder of runs is given, such as: python src/report.py logs/train/runs")
    names = [name.strip() for name in values["table"].split(",")] if "table" in values else []
    out = Path(values.get("out", "logs/report"))
    parts, broken = write_report(places, names, out)
    for part in parts:
        counted = sum(len(line.runs) for line in part.lines)
        filled = sum(bool(line.runs) for line in part.lines)
        say(f"{heading(part)}: {filled} of {len(part.lines)} rows, {counted} runs")
    for note in [note for part in parts for note in part.notes] + broken:
        say(f"  {note}")
    say(f"{out}: {', '.join(FILES)}")


if __name__ == "__main__":
    main()
