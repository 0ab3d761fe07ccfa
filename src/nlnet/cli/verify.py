"""`nlnet-verify SHARDS [--html page.html]`: are the shards what their manifests say, and can they be decoded?"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from nlnet.cli.errors import run
from nlnet.data.verify.check import verify
from nlnet.data.verify.page import page
from nlnet.data.verify.report import Options, Report
from nlnet.errors import UserError
from nlnet.saving import write_bytes
from nlnet.text import say

_LINES = 20


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nlnet-verify", description=__doc__)
    parser.add_argument("shards", help="a folder, an s3://, gs:// or az:// prefix, or one manifest (https:// too)")
    parser.add_argument("--decode", type=float, default=0.1, help="fraction of the videos decoded whole (default 0.1)")
    parser.add_argument("--span", type=int, default=64, help="frames below which a video is called short (default 64)")
    parser.add_argument("--html", type=Path, help="write the report as a page with a contact sheet")
    parser.add_argument("--pictures", type=int, default=48, help="videos a split on the contact sheet (default 48)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="shards at a time (default: cores)")
    parser.add_argument("--allow-duplicates", action="store_true", help="do not call equal videos a fault")
    return parser.parse_args(argv)


def _check(arguments: argparse.Namespace) -> Report:
    if not 0 <= arguments.decode <= 1:
        raise UserError(f"--decode {arguments.decode}: expected a fraction from 0 to 1")
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: expected a whole number from 1")
    if arguments.html and not arguments.html.resolve().parent.is_dir():
        raise UserError(f"--html {arguments.html}: there is no such folder")
    options = Options(
        decode=arguments.decode,
        span=arguments.span,
        thumbnails=arguments.pictures if arguments.html else 0,
        workers=arguments.workers,
        duplicates=arguments.allow_duplicates,
    )
    report = verify(arguments.shards, options)
    if arguments.html:
        write_bytes(arguments.html, page(report).encode())
    return report


def _say(report: Report) -> None:
    for manifest in report.manifests:
        counts = report.labels[manifest.split]
        empty = sum(count == 0 for count in counts.values())
        common = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(3) if count)
        say(
            f"{manifest.dataset} {manifest.split}: {len(manifest.samples):,} {manifest.things} in"
            f" {len(manifest.shards):,} shards;"
            f" {len(counts):,} classes, {empty:,} of them empty; most frequent: {common}"
        )
    if report.short:
        say(f"{len(report.short):,} videos have fewer than {report.span} frames and are repeated in training")
    for finding in report.findings[:_LINES]:
        say(f"{finding.where}: {finding.cause}: {finding.detail}")
    if len(report.findings) > _LINES:
        say(f"... and {len(report.findings) - _LINES:,} more; --html lists them")
    causes = ", ".join(f"{count:,} {cause}" for cause, count in Counter(f.cause for f in report.findings).most_common())
    read = f"{report.bytes / 1e6:,.1f} MB read, {report.decoded:,} of {report.samples:,} videos decoded"
    say(f"{read}: {f'{len(report.findings):,} faults ({causes})' if causes else 'no faults'}")


def main() -> None:
    """The console command `nlnet-verify`, `nlnet-lint` in 0.1; the exit code is 1 if anything is wrong."""
    arguments = _arguments(sys.argv[1:])
    report = run(lambda: _check(arguments), "verify")
    _say(report)
    sys.exit(1 if report.findings else 0)


if __name__ == "__main__":
    main()
