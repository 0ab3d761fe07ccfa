"""Which point of a multirun (`-m`) this run is."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from nlnet.distributed import several_processes
from nlnet.errors import UserError
from nlnet.reading import read_yaml


def in_multirun() -> bool:
    """Whether this process runs a point of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def job_number(cfg: DictConfig) -> str | None:
    """The number of this point; None outside of a multirun. Raises UserError for several ranks in one."""
    if not in_multirun():
        return None
    if several_processes(cfg.trainer) and "WORLD_SIZE" not in os.environ:
        raise UserError(
            f"trainer.devices={cfg.trainer.devices} trainer.strategy={cfg.trainer.strategy}: several processes are"
            " started by running the command line again, which in a multirun (-m) would be the whole sweep; start the"
            " points one by one, or with torchrun"
        )
    return str(HydraConfig.get().job.num)


def typed_words() -> list[str]:
    """The overrides of the command line; none where there is no command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def swept() -> list[str] | None:
    """The words of this point that differ between the points, such as ["seed=0"]; None outside of a multirun.

    All of its words, where the sweep's own file does not say which they are.
    """
    if not in_multirun():
        return None
    hydra = HydraConfig.get()
    words = list(hydra.overrides.task)
    keys = _swept_keys(Path(hydra.sweep.dir) / "multirun.yaml")
    return sorted(word for word in words if keys is None or word.partition("=")[0] in keys)


def _swept_keys(file: Path) -> set[str] | None:
    """The keys with several values in the file that Hydra's sweepers write before the first point."""
    try:
        hydra = read_yaml(file)["hydra"]
        words = [
            *hydra["overrides"]["task"],
            *(f"{key}={v}" for key, v in (hydra["sweeper"].get("params") or {}).items()),
        ]
    except (OSError, UserError, KeyError, TypeError):
        return None
    parsed = OverridesParser.create().parse_overrides(words)
    return {override.get_key_element() for override in parsed if override.is_sweep_override()}
