"""Warnings of other packages that say nothing to the person who trains."""

import logging
import warnings


def quiet(*, keep_log: bool = False) -> None:
    """Silence what is known and harmless, one entry and one reason each; everything else is shown.

    `keep_log` keeps Lightning's log, which is where a profiler reports.
    """
    for message in (
        # Lightning 2.6 against torch 2.12 and later: its own use of a renamed class.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        # A resumed run goes on in its own folder.
        r"Checkpoint directory .* exists and is not empty",
        # A training on one process of a cluster's machine is as good as anywhere.
        r"The `srun` command is available on your system but is not used",
        # DDP compares strides of sides of length 1, which say nothing: weights of 1x1x1 beside channels-last maps.
        r"Grad strides do not match bucket view strides[\s\S]*?grad\.sizes\(\) = \[\d+, \d+(, 1)+\]",
        # The folder of a callback differs when a checkpoint continues in a new run.
        r"The dirpath has changed from",
    ):
        warnings.filterwarnings("ignore", message=message)
    if not keep_log:  # which accelerators are not in use, and advertisements
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
