"""`python src/predict.py ckpt_path=... source=...`: what a trained network sees in videos or images."""

import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from nlnet.cli.errors import run
from nlnet.config.checkpoint_command import checkpoint_command
from nlnet.config.search_path import split_flags

USAGE = """usage: python src/predict.py ckpt_path=CKPT source=SOURCE [KEY=VALUE ...]

Prints the top classes of each video over time and writes predictions.json. SOURCE is a video file, a folder of videos,
prepared shards (folder or URL), or tar files (x-{000..009}.tar). CKPT is a run's folder or checkpoint, or a file of
nlnet-convert, which needs frames=, stride=, crop= and classes=FILE (one name a line) besides.

With a detector's CKPT, SOURCE is an image or a folder of images; boxes, masks and skeletons are drawn on copies."""


def main() -> None:
    """The command `python src/predict.py`."""
    _, arguments = split_flags(sys.argv[1:])
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    run(lambda: _predicted(settings(arguments)), "predict")


def settings(overrides: Sequence[str]) -> DictConfig:
    """The configuration of a prediction. Raises UserError for unknown keys and for what is missing."""
    return checkpoint_command(overrides, "predict", USAGE)


def _predicted(cfg: DictConfig) -> dict[str, Any]:
    from nlnet.prediction.predict import predict  # with torch, which a mistake in the configuration need not wait for

    return predict(cfg)


if __name__ == "__main__":
    main()
