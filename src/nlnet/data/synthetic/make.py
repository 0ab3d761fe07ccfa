"""The built-in data sets, made on first use."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nlnet.errors import UserError, nearest


class BuiltIn(NamedTuple):
    """What its samples are, its version, about how many seconds it takes to make, and whether it takes the
    place of real data."""

    samples: str
    version: str
    seconds: int
    stands_in: bool = True


# A new version whenever the samples change: it names the folder.
BUILT_IN = {
    "charades": BuiltIn("synthetic clips", "v1", 20),
    "kinetics": BuiltIn("synthetic clips", "v1", 20),
    "coco": BuiltIn("synthetic images", "v1", 10),
    "cityscapes": BuiltIn("synthetic images", "v1", 2),
    "ade20k": BuiltIn("synthetic images", "v1", 2),
    "voc": BuiltIn("synthetic images", "v1", 2),
    "charades_regions": BuiltIn("synthetic clips", "v1", 20),
    "something": BuiltIn("synthetic clips", "v1", 20),
    "longrange": BuiltIn("synthetic clips", "v1", 20, stands_in=False),
    "photographs": BuiltIn("photographs", "v1", 1),
}
"""By `data.stand_in` or `data.dataset`: the data set whose place they take, or their own name."""


def built_in(dataset: str) -> BuiltIn:
    """The built-in data set that stands in for `dataset`. Raises UserError where there is none."""
    if dataset not in BUILT_IN:
        raise UserError(f"no built-in clips stand in for data.dataset={dataset!r}; {nearest(dataset, BUILT_IN)}")
    return BUILT_IN[dataset]


def folder_of(root: Path, dataset: str) -> Path:
    """Where the built-in data set is, or will be, under `root`. Raises UserError for another data set."""
    return root / "synthetic" / f"{dataset}-{built_in(dataset).version}"


def ensure(root: Path, dataset: str = "charades", say: Callable[[str], None] = print) -> Path:
    """The folder of the built-in data set under `root`, made on first use (some seconds).

    `dataset` is "charades" (multi-label: the local and the relational classes; splits train and test) or "kinetics"
    (multi-class: the pair of the two relations, so that local evidence is worth nothing; splits train and val), of the
    same clips (`nlnet.data.synthetic.clips`); or "coco" (images: `nlnet.data.synthetic.shapes`; splits train and val);
    or "cityscapes", "ade20k" or "voc" (images with masks: `nlnet.data.synthetic.signs`; splits train and val);
    or "longrange" (multi-label, `nlnet.data.synthetic.longrange`; splits train and val); or "photographs", those that
    scikit-image comes with (`nlnet.data.restoration.photographs`; folders train and val).
    The folder appears under its name only when it is whole, so a killed first run leaves nothing that a second one
    would trust, and of two processes that make it at once the first to finish wins.

    Raises UserError for another data set, and where `root` cannot be written.
    """
    folder, known = folder_of(root, dataset), built_in(dataset)
    if folder.is_dir():
        return folder
    say(f"making the built-in {known.samples} in {folder}, once: about {known.seconds} s")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
            made = Path(workshop) / "whole"
            _build(made, dataset)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise UserError(
            f"{folder.parent}: cannot make the built-in clips there ({error}); set paths.data_dir"
        ) from error
    return folder


def _build(folder: Path, dataset: str) -> None:
    # Here: a command that makes nothing need not wait for the encoders.
    from nlnet.data.restoration import photographs
    from nlnet.data.synthetic import clips, longrange, meetings, shapes, signs

    if dataset == photographs.DATASET:
        photographs.build(folder)
    elif dataset == shapes.DATASET:
        shapes.build(folder)
    elif dataset in signs.STANDS_IN_FOR:
        signs.build(folder)
    elif dataset == longrange.DATASET:
        longrange.build(folder)
    elif dataset in meetings.DATASETS:
        meetings.build(folder, meetings.DATASETS[dataset])
    else:
        clips.build(folder, dataset)
