"""The demo rule: what happens when no shards are configured.

Started by hand, as one process, a training without shards runs the demo: the same code at `size=demo` on synthetic
clips. Wherever its result could be mistaken for a real one, missing shards are an error instead.
"""

import os
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig

from nlnet.data.synthetic.make import BUILT_IN
from nlnet.errors import UserError


def has_shards(cfg: DictConfig) -> bool:
    """Whether `data.shards` is set; the empty string, as of an unset variable, does not count."""
    return "shards" not in cfg.data or bool(cfg.data.shards)


def stand_in(cfg: DictConfig) -> str:
    """The built-in set that a demo takes: `data.stand_in`, or that of the data set's name."""
    return str(cfg.data.get("stand_in") or cfg.data.dataset)


def asks_for_demo(cfg: DictConfig, overrides: Sequence[str]) -> bool:
    """Whether the command line says `size=demo`, or what that is for the experiment."""
    return not {"size=demo", "size=demo_data", f"size={cfg.demo_size}"}.isdisjoint(overrides)


def runs_demo(cfg: DictConfig, overrides: Sequence[str], env: Mapping[str, str] | None = None) -> bool:
    """Whether this run is a demo. Raises UserError where shards are missing and a demo would mislead.

    A built-in data set that stands in for no other misleads nobody.
    """
    if has_shards(cfg):
        return False
    known = BUILT_IN.get(stand_in(cfg))
    if asks_for_demo(cfg, overrides) or (known and not known.stands_in):
        return True
    reason = _why_not(cfg, os.environ if env is None else env)
    if reason:
        variable = cfg.data.get("shards_variable", "data.shards")
        raise UserError(
            f"no shards: set data.shards=FOLDER_OR_URL or the environment variable {variable}. The demo does not stand"
            f" in for them here, because {reason}; ask for it with size=demo if you mean it"
        )
    return True


def _why_not(cfg: DictConfig, env: Mapping[str, str]) -> str | None:
    if int(env.get("WORLD_SIZE", "1")) > 1:
        return "this is a run of several processes (WORLD_SIZE)"
    if str(cfg.trainer.strategy) != "auto":
        return f"trainer.strategy={cfg.trainer.strategy} is for several processes"
    if "SLURM_JOB_ID" in env:
        return "this is a Slurm job (SLURM_JOB_ID)"
    if "WANDB_SWEEP_ID" in env:
        return "this is a point of a W&B sweep (WANDB_SWEEP_ID)"
    if cfg.get("ckpt_path"):
        return f"ckpt_path={cfg.ckpt_path} is given"
    return None
