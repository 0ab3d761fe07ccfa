"""`nlnet-export CKPT --format onnx --out FILE`: a network that runs without this project."""

import argparse
from pathlib import Path

from nlnet.checkpoints import from_pretrained
from nlnet.checkpoints.export import FORMATS, export
from nlnet.checkpoints.pretrained import WEIGHTS
from nlnet.cli.errors import run
from nlnet.text import say


def main() -> None:
    """The console command `nlnet-export`."""
    run(_export)


def _export() -> None:
    parser = argparse.ArgumentParser(
        prog="nlnet-export", description="a network in a format that runs without this project"
    )
    parser.add_argument("path", type=Path, metavar="CKPT", help="a run's folder or checkpoint, or a converted file")
    parser.add_argument("--format", required=True, choices=FORMATS, help="torch: for torch.export.load")
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    parser.add_argument("--weights", choices=WEIGHTS, help="of a run with callbacks=ema: the average (default), or not")
    arguments = parser.parse_args()
    net = from_pretrained(arguments.path, weights=arguments.weights)
    difference = export(net, arguments.out, arguments.format)
    size = arguments.out.stat().st_size / 2**20
    say(f"written: {arguments.out} ({size:.1f} MiB), results within {difference:.1e} of the network's")


if __name__ == "__main__":
    main()
