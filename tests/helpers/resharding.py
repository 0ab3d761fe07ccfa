"""A rank that continues a checkpoint where nothing is left to do, and writes it anew."""

from collections.abc import Sequence

from helpers.processes import become
from nlnet.config.resolve import load


def write_again(rank: int, world_size: int, port: int, words: Sequence[str], out: str) -> None:
    """Load as a run that goes on does, shard for `world_size` ranks, and save to `out`."""
    import torch

    torch.set_num_threads(1)
    become(rank, world_size, port)
    from nlnet.runs.train import train

    _, objects = train(load(words))
    objects["trainer"].save_checkpoint(out)
