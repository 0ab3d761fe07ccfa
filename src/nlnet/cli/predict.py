"""`python src/predict.py ckpt_path=... source=...`: what a trained network sees in videos or images."""

import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nlnet.cli.errors import run
from nlnet.config.compose import compose
from nlnet.config.search_path import split_flags
from nlnet.errors import UserError

USAGE = """usage: python src/predict.py ckpt_path=CKPT source=SOURCE [KEY=VALUE ...]

Prints the top classes of each video over time and writes predictions.json. SOURCE is a video file, a folder of videos,
prepared shards (folder or URL), or tar files (x-{000..009}.tar). CKPT is a run's folder or checkpoint, or a file of
nlnet-convert, which needs frames=, stride=, crop= and classes=FILE (one name a line) besides.

With a detector's CKPT, SOURCE is an image or a folder of images; boxes, masks and skeletons are drawn on copies."""

_PATHS = ("ckpt_path", "source", "out", "classes")


def main() -> None:
    """The command `python src/predict.py`."""
    _, arguments = split_flags(sys.argv[1:])
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    run(lambda: _predicted(settings(arguments)), "predict")


def settings(overrides: Sequence[str]) -> DictConfig:
    """The configuration of a prediction. Raises UserError for unknown keys and for what is missing."""
    cfg = compose([_quoted(override) for override in overrides], "predict")
    for key in ("ckpt_path", "source"):
        if OmegaConf.is_missing(cfg, key):
            raise UserError(f"{key} is missing", *USAGE.splitlines())
    return cfg


def _predicted(cfg: DictConfig) -> dict[str, Any]:
    from nlnet.prediction.predict import predict  # with torch, which a mistake in the configuration need not wait for

    return predict(cfg)


def _quoted(override: str) -> str:
    """An override whose value is a path, in quotes: file names may hold what Hydra would read as its grammar."""
    key, _, value = override.partition("=")
    if key not in _PATHS or value[:1] in ("'", '"', ""):
        return override
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


if __name__ == "__main__":
    main()
