"""`python src/sweep.py FILE`: the points of a W&B sweep file, run on this machine without W&B."""

import os
import sys
from pathlib import Path

from nlnet.cli.errors import run
from nlnet.config.resolve import load
from nlnet.config.words import read_words, split_words
from nlnet.errors import RunInterrupted, UserError
from nlnet.sweeps.outcomes import table
from nlnet.sweeps.points import Point, points
from nlnet.sweeps.record import note_words
from nlnet.sweeps.sweep_file import find_sweep, read_sweep, varied
from nlnet.sweeps.sweeper import Sweeper
from nlnet.text import say

_USAGE = """usage: sweep.py FILE [n=1] [out=FOLDER] [count=N] [random_seed=0] [KEY=VALUE ...]

Runs every point of a sweep file (W&B's format; method grid or random) as a training of its own, n at a time, below
out (paths.log_dir/sweeps/NAME). Start it again to do what is missing: finished points are skipped, the others
continue. Several may run at once on the same file and folder. FILE may be a name in configs/sweeps, such as table2a.
  count=N         the first N points; a random sweep needs it, or run_cap in the file
  random_seed=N   of a random sweep
  KEY=VALUE       a setting of every point; KEY=A,B varies it, and takes the place of the file's values: seed=0,1,2"""
_OWN = ("n", "count", "random_seed", "out")


def main() -> None:
    """The console command `nlnet-sweep`."""
    run(_main)


def _main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return
    if "=" in arguments[0] or arguments[0].startswith("-"):
        raise UserError(f"{arguments[0]}: name the sweep's file first, such as configs/sweeps/table2a.yaml")
    flags, words = split_words(arguments[1:])
    if multirun := {"-m", "--multirun"}.intersection(flags):
        raise UserError(f"{multirun.pop()}: the sweep's file says what varies; leave it out")
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in _OWN}
    further = read_words([word for word in words if word.partition("=")[0] not in _OWN])
    sweep = read_sweep(find_sweep(arguments[0]))
    sweep, further = varied(sweep, further)
    count = _whole("count", own["count"], least=1) if "count" in own else None
    found = points(sweep, count, _whole("random_seed", own.get("random_seed", "0"), least=0))
    found = [Point(point.name, (*point.words, *further)) for point in found]
    at_once = _whole("n", own.get("n", "1"), least=1)
    out = Path(own["out"] if own.get("out") else _log_dir(further) / "sweeps" / sweep.name).absolute()
    load(found[0].words)  # a mistake in the settings is told once, before anything starts
    note_words(out, [*sweep.words, *further])
    say(f"{len(found)} points, {at_once} at a time, in {out}", error=True)
    command = [sys.executable, "-m", "nlnet.cli.train", *flags]
    try:
        results = Sweeper(found, out, command, at_once).run()
    except RunInterrupted as stop:
        say(f"{stop}; start it again to do the rest", error=True)
        sys.exit(128 + stop.signal)
    for text in table(results):
        say(text)
    if any(result.status != "finished" for result in results):
        sys.exit(1)


def _whole(key: str, text: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text[:9]) and len(text) < 10):
        raise UserError(f"{key}={text}: expected a whole number from {least}")
    return int(text)


def _log_dir(words: list[str]) -> Path:
    typed = [value for key, _, value in (word.partition("=") for word in words) if key == "paths.log_dir"]
    return Path(typed[-1].strip("'\"") if typed else os.environ.get("NLNET_LOG_DIR", "logs"))


if __name__ == "__main__":
    main()
