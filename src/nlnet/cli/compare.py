"""`nlnet-compare A B`: is B better than A, on the same videos? With a bootstrap interval."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nlnet.cli.errors import run
from nlnet.config.instantiate import find_allowed
from nlnet.errors import UserError
from nlnet.evaluation.compare import Difference, compare
from nlnet.evaluation.predictions import FILE, load
from nlnet.text import say


def main() -> None:
    """The console command `nlnet-compare`."""
    run(_compare)


def _compare() -> None:
    arguments = _parser().parse_args()
    if arguments.samples < 1:
        raise UserError(f"--samples {arguments.samples}: give a number, at least 1")
    if not 0 < arguments.confidence < 1:
        raise UserError(f"--confidence {arguments.confidence}: give a fraction between 0 and 1, such as 0.95")
    a, b = load(arguments.a), load(arguments.b)
    further = dict(map(_metric, arguments.metric))
    options = {"samples": arguments.samples, "confidence": arguments.confidence, "seed": arguments.seed}
    found = compare(a, b, **options, further=further)
    if arguments.json:
        print(json.dumps({"videos": len(a.keys)} | {row.name: asdict(row) for row in found}, indent=2))
        return
    say(f"A {arguments.a} ({_protocol(a.protocol)})")
    say(f"B {arguments.b} ({_protocol(b.protocol)})")
    say(f"{len(a.keys)} videos, {arguments.samples} resamplings")
    for line in ("", *table(found, arguments.confidence)):
        say(line)


def table(rows: list[Difference], confidence: float) -> list[str]:
    """One line a metric, in percent."""
    interval = f"{confidence:.0%} interval"
    lines = [f"{'':8}{'A':>8}{'B':>8}{'A + B':>8}{'B - A':>9}   {interval}"]
    for row in rows:
        values = f"{100 * row.a:8.2f}{100 * row.b:8.2f}{100 * row.both:8.2f}{100 * row.difference:+9.2f}"
        lines.append(f"{row.name:8}{values}   [{100 * row.low:+.2f}, {100 * row.high:+.2f}]{_word(row)}")
    return lines


def _word(row: Difference) -> str:
    if row.low > 0:
        return "  B is better"
    return "  A is better" if row.high < 0 else "  not told apart"


def _protocol(protocol: object) -> str:
    return str(protocol.get("name", "?")) if isinstance(protocol, dict) else "?"


def _metric(text: str) -> tuple[str, Callable[..., Any]]:
    name, equals, target = text.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--metric {text}: give NAME=PACKAGE.FUNCTION, such as --metric f1=mine.metrics.macro_f1")
    # Whoever types a function's name wants it called: its own package is allowed.
    return name, find_allowed("--metric", target, [target.split(".")[0]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nlnet-compare", description=__doc__)
    for name in ("a", "b"):
        parser.add_argument(name, type=Path, metavar=name.upper(), help=f"{FILE}, or the folder it is in")
    parser.add_argument("--samples", type=int, default=2000, help="how often the videos are drawn again (2000)")
    parser.add_argument("--confidence", type=float, default=0.95, help="the fraction inside the interval (0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (0)")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME=PACKAGE.FUNCTION",
        help="a metric of your own besides: (scores (N, K), targets) -> a number, computed for every resampling",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
