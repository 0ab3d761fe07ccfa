"""`python src/regions.py shards=FOLDER weights=FILE`: regions of the frames of prepared videos, stored beside them."""

import sys

from nlnet.cli.errors import run
from nlnet.config.compose import compose
from nlnet.config.search_path import split_flags
from nlnet.config.words import quoted_path, read_words
from nlnet.errors import UserError

USAGE = """usage: python src/regions.py shards=FOLDER weights=FILE [KEY=VALUE ...]

Looks for regions that may hold an object in the frames of prepared videos, and stores them beside the shards, for
networks of region graphs. WEIGHTS is a file of torchvision's Faster R-CNN R50-FPN, or its name COCO_V1, which is
downloaded. part=1/4 makes a quarter of the shards, merge=true the manifests once all parts are done."""

_PATHS = ("shards", "weights", "out")


def main() -> None:
    """The console command `nlnet-regions`."""
    _, arguments = split_flags(sys.argv[1:])
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    try:
        run(lambda: _regions(arguments), "regions")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on after the last finished shard", file=sys.stderr)
        sys.exit(130)


def _regions(arguments: list[str]) -> None:
    cfg = compose([quoted_path(word, _PATHS) for word in read_words(arguments)], "regions")
    from omegaconf import OmegaConf

    for key in ("shards", "weights"):
        if OmegaConf.is_missing(cfg, key):
            raise UserError(f"{key} is missing", *USAGE.splitlines())
    from nlnet.prediction.regions.files import make_regions  # with torch, which a mistake need not wait for

    make_regions(cfg)


if __name__ == "__main__":
    main()
