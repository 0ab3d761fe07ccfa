"""`nlnet-convert SRC --source NAME`: somebody's checkpoint as one of ours, with an account of every key."""

import argparse
from pathlib import Path
from typing import Any

from nlnet.checkpoints import SOURCES, Converted, convert
from nlnet.cli.errors import run
from nlnet.errors import UserError
from nlnet.reading import parse_yaml
from nlnet.text import say


def main() -> None:
    """The console command `nlnet-convert`."""
    run(_convert)


def _convert() -> None:
    arguments = _parser().parse_args()
    model = dict(_setting(text) for text in arguments.set)
    options = {"config": arguments.config, "block": arguments.block, "allow": arguments.allow}
    converted = convert(arguments.path, arguments.source, **(options | model))
    for line in (*converted.report.lines(), "", *_summary(converted)):
        say(line)
    if arguments.out:
        converted.save(arguments.out)
        say(f"written: {arguments.out}; nlnet.from_pretrained({str(arguments.out)!r}) builds it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nlnet-convert", description=__doc__)
    parser.add_argument("path", type=Path, metavar="SRC", help="the checkpoint")
    parser.add_argument("--source", required=True, choices=list(SOURCES), help="the program that wrote it")
    parser.add_argument(
        "--config", type=Path, help="the configuration it was trained with (mmaction2, slowfast, caffe2)"
    )
    parser.add_argument("--block", help="the one to take out of several, as its keys begin (alexhex7)")
    parser.add_argument("--out", type=Path, help="write the network here")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of nlnet.build_model known better than from the file, such as geometry=dense",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="left-over and missing keys that are no error, such as 'fc.*'",
    )
    return parser


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UserError(f"--set {text}: give KEY=VALUE, such as --set geometry=dense")
    return key, parse_yaml(value, f"--set {text}")


def _summary(converted: Converted) -> tuple[str, str]:
    chosen = ", ".join(f"{key}={value}" for key, value in converted.model.items())
    return converted.report.counts(), f"network: {chosen}"


if __name__ == "__main__":
    main()
