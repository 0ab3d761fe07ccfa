"""`nlnet-compare A B`: is B better than A, on the same videos? With a bootstrap interval."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from nlnet.cli.errors import run
from nlnet.errors import UserError
from nlnet.evaluation.compare import Difference, compare
from nlnet.evaluation.predictions import FILE, load


def main() -> None:
    """The console command `nlnet-compare`."""
    run(_compare)


def _compare() -> None:
    arguments = _parser().parse_args()
    if arguments.samples < 1:
        raise UserError(f"--samples {arguments.samples}: give a number, at least 1")
    if not 0 < arguments.confidence < 1:
        raise UserError(f"--confidence {arguments.confidence}: give a share between 0 and 1, such as 0.95")
    a, b = load(arguments.a), load(arguments.b)
    found = compare(a, b, samples=arguments.samples, confidence=arguments.confidence, seed=arguments.seed)
    if arguments.json:
        print(json.dumps({"videos": len(a.keys)} | {row.name: asdict(row) for row in found}, indent=2))
        return
    print(f"A {arguments.a} ({_protocol(a.protocol)})\nB {arguments.b} ({_protocol(b.protocol)})")
    print(f"{len(a.keys)} videos, {arguments.samples} resamplings\n")
    for line in table(found, arguments.confidence):
        print(line)


def table(rows: list[Difference], confidence: float) -> list[str]:
    """One line a figure, in percent."""
    interval = f"{confidence:.0%} interval"
    lines = [f"{'':8}{'A':>8}{'B':>8}{'A + B':>8}{'B - A':>9}   {interval}"]
    for row in rows:
        figures = f"{100 * row.a:8.2f}{100 * row.b:8.2f}{100 * row.both:8.2f}{100 * row.difference:+9.2f}"
        lines.append(f"{row.name:8}{figures}   [{100 * row.low:+.2f}, {100 * row.high:+.2f}]{_word(row)}")
    return lines


def _word(row: Difference) -> str:
    if row.low > 0:
        return "  B is better"
    return "  A is better" if row.high < 0 else "  not told apart"


def _protocol(protocol: object) -> str:
    return str(protocol.get("name", "?")) if isinstance(protocol, dict) else "?"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nlnet-compare", description=__doc__)
    for name in ("a", "b"):
        parser.add_argument(name, type=Path, metavar=name.upper(), help=f"{FILE}, or the folder it is in")
    parser.add_argument("--samples", type=int, default=2000, help="how often the videos are drawn again (2000)")
    parser.add_argument("--confidence", type=float, default=0.95, help="the share inside the interval (0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
