"""Evaluating a converted checkpoint, which has no run: its file says which network it is, the command line the rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from nlnet.errors import UserError
from nlnet.runs import checkpoint as checkpoints
from nlnet.runs.demo import load


def converted_config(path: Path, overrides: Sequence[str]) -> DictConfig | None:
    """What `python src/train.py OVERRIDES` would run with, but with the network of a file that `nlnet-convert` wrote;
    None for other files. Raises UserError where no shards are set."""
    model = checkpoints.read(path).get("model")
    if not isinstance(model, Mapping):
        return None
    cfg = load(overrides)
    if cfg.demo:
        raise UserError(
            f"ckpt_path={path} is converted, and built-in clips would tell nothing about it; give the data it is for,"
            " such as experiment=kinetics_i3d_nl_8x8 data.shards=FOLDER_OR_URL"
        )
    with open_dict(cfg):
        cfg.model = {"_target_": cfg.model._target_} | {k: v for k, v in model.items() if k != "num_classes"}
    return cfg


def run_state(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint with the tensors under the names of a run's; a converted file has the network's own."""
    if not isinstance(content.get("model"), Mapping):
        return content
    return {"state_dict": {f"net.{key}": value for key, value in content["state_dict"].items()}}
