"""`nlnet-compare A B`: is B better than A, on the same videos or images? With a bootstrap interval."""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nlnet.cli.errors import run
from nlnet.config.instantiate import find_allowed
from nlnet.errors import UserError
from nlnet.evaluation.compare import Difference, compare
from nlnet.evaluation.predictions import DETECTIONS, FILE, is_detection, load
from nlnet.text import say

_OF_VIDEOS, _OF_IMAGES = 2000, 200  # resamplings; the average precision of detections takes longer


def main() -> None:
    """The console command `nlnet-compare`."""
    run(_compare)


def _compare() -> None:
    arguments = _parser().parse_args()
    if arguments.samples is not None and arguments.samples < 1:
        raise UserError(f"--samples {arguments.samples}: give a number, at least 1")
    if not 0 < arguments.confidence < 1:
        raise UserError(f"--confidence {arguments.confidence}: give a fraction between 0 and 1, such as 0.95")
    further = dict(map(_metric, arguments.metric))
    detections = [is_detection(path) for path in (arguments.a, arguments.b)]
    times = arguments.samples or (_OF_IMAGES if all(detections) else _OF_VIDEOS)
    options = {"samples": times, "confidence": arguments.confidence, "seed": arguments.seed}
    if all(detections):
        from nlnet.reports.compare_detections import compare_detections  # with pycocotools

        if further:
            raise UserError("--metric: is of classes, and A and B are detections; leave it out")
        samples, found = compare_detections(arguments.a, arguments.b, arguments.truth, **options)
        titles = [f"{name} {path}" for name, path in (("A", arguments.a), ("B", arguments.b))]
    elif any(detections) or arguments.truth:
        raise UserError(
            "A and B are not both detections (predictions.json); compare two of a kind, and without --truth"
        )
    else:
        a, b = load(arguments.a), load(arguments.b)
        samples, found = f"{len(a.keys)} videos", compare(a, b, **options, further=further)
        titles = [f"A {arguments.a} ({_protocol(a.protocol)})", f"B {arguments.b} ({_protocol(b.protocol)})"]
    if arguments.json:
        count, what = samples.split()
        print(json.dumps({what: int(count)} | {row.name: _plain(row) for row in found}, indent=2))
        return
    for line in (*titles, f"{samples}, {times} resamplings", "", *table(found, arguments.confidence)):
        say(line)


def _plain(row: Difference) -> dict[str, Any]:
    """As JSON has it: null for what is not a number."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(row).items()}


def table(rows: list[Difference], confidence: float) -> list[str]:
    """One line a metric, in percent."""
    interval = f"{confidence:.0%} interval"
    width = max(8, *(len(row.name) + 1 for row in rows))
    lines = [f"{'':{width}}{'A':>8}{'B':>8}{'A + B':>8}{'B - A':>9}   {interval}"]
    for row in rows:
        both = "-" if row.both is None else f"{100 * row.both:.2f}"
        values = f"{100 * row.a:8.2f}{100 * row.b:8.2f}{both:>8}{100 * row.difference:+9.2f}"
        lines.append(f"{row.name:{width}}{values}   {_interval(row)}")
    return lines


def _interval(row: Difference) -> str:
    if math.isnan(row.difference):
        return "no value: no positive among the samples"
    if math.isnan(row.low):
        return "no interval: no resampling has a positive"
    note = f" ({row.undefined} resamplings without a positive are left out)" if row.undefined else ""
    return f"[{100 * row.low:+.2f}, {100 * row.high:+.2f}]{_word(row)}{note}"


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
        parser.add_argument(
            name, type=Path, metavar=name.upper(), help=f"the folder of an evaluation: {FILE}, or {DETECTIONS}"
        )
    parser.add_argument(
        "--samples", type=int, help=f"how often the videos ({_OF_VIDEOS}) or images ({_OF_IMAGES}) are drawn"
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="the fraction inside the interval (0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (0)")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME=PACKAGE.FUNCTION",
        help="a metric of your own besides: (scores (N, K), targets) -> a number, computed for every resampling",
    )
    parser.add_argument("--truth", type=Path, help="COCO annotations, for detections whose data is not where it was")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    main()
