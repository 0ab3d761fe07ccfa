"""`python src/explain.py ckpt_path=... source=...`: what a network's non-local blocks attend to."""

import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from nlnet.cli.errors import run
from nlnet.config.checkpoint_command import checkpoint_command
from nlnet.config.search_path import split_flags

USAGE = """usage: python src/explain.py ckpt_path=CKPT source=SOURCE [KEY=VALUE ...]

Writes explain.html, a page on which every position of the clip shows what it attends to, explain.png, explain.mp4 and
explain.json, into the folder out=. SOURCE is a video, a folder of videos or frames, or prepared shards with key=SAMPLE;
with the CKPT of a detector or of a network for segmentation an image. CKPT is a run's folder or checkpoint, or a file
of nlnet-convert, which needs frames=, stride= and crop= besides."""


def main() -> None:
    """The command `python src/explain.py`."""
    _, arguments = split_flags(sys.argv[1:])
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    run(lambda: _explained(settings(arguments)), "explain")


def settings(overrides: Sequence[str]) -> DictConfig:
    """The configuration of an explanation. Raises UserError for unknown keys and for what is missing."""
    return checkpoint_command(overrides, "explain", USAGE)


def _explained(cfg: DictConfig) -> Any:
    from nlnet.attention.command import explain_source  # with torch, which a mistake need not wait for

    return explain_source(cfg)


if __name__ == "__main__":
    main()
