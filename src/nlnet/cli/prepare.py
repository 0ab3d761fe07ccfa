"""`python src/prepare.py dataset=charades source=FOLDER out=FOLDER`: videos on disk become shards with manifests."""

import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from nlnet.cli.errors import run
from nlnet.config.paths import config_dir
from nlnet.data.prepare.run import prepare
from nlnet.data.prepare.settings import Settings
from nlnet.errors import UserError

_HOW = "such as: python src/prepare.py dataset=charades source=FOLDER out=FOLDER"


def settings_from(cfg: DictConfig) -> Settings:
    """The composed configuration as settings. Raises UserError for what is not set."""
    for name in ("dataset", "out"):
        if OmegaConf.is_missing(cfg, name):
            raise UserError(f"{name}= is not set, {_HOW}")
    if OmegaConf.is_missing(cfg, "source") and "${source}" in OmegaConf.to_yaml(cfg):
        raise UserError(f"source= is not set, {_HOW}")
    values = {str(name): value for name, value in cfg.items() if name not in ("source", "hydra")}
    values["videos"] = Path(str(values["videos"])).expanduser()
    several = [Path(str(path)).expanduser() for path in _listed(values["annotations"])]
    values["annotations"] = several[0] if len(several) == 1 else tuple(several)
    values["out"] = str(values["out"])
    return Settings(**values)


def _listed(value: Any) -> list[Any]:
    """A value, or the values of a list."""
    return list(value) if OmegaConf.is_list(value) and value else [value]


@hydra.main(version_base="1.3", config_path=config_dir(), config_name="prepare")
def _job(cfg: DictConfig) -> None:
    # Within Hydra's job, which would report an error in its own words before passing it on.
    try:
        run(lambda: prepare(settings_from(cfg)), "prepare")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on after the last finished shard", file=sys.stderr)
        sys.exit(130)


def main() -> None:
    """The console command `nlnet-prepare`."""
    run(_job, "prepare")


if __name__ == "__main__":
    main()
