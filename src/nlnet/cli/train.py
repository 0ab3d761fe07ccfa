"""`python src/train.py experiment=...`: compose, train, return the metric that a sweeper optimizes."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nlnet.cli.errors import run
from nlnet.config.paths import config_dir
from nlnet.config.resolve import resolve
from nlnet.errors import UserError
from nlnet.renamed import current_overrides
from nlnet.text import masked


@hydra.main(config_path=config_dir(), config_name="train", version_base="1.3")
def _job(cfg: DictConfig) -> float | None:
    _mask_sweep()
    # Within Hydra's job too, which would report an error in its own words before passing it on.
    return run(lambda: _optimized(resolve(cfg, list(HydraConfig.get().overrides.task))))


def _mask_sweep() -> None:
    """Hydra keeps the command line of a sweep in a file."""
    path = Path(HydraConfig.get().sweep.dir) / "multirun.yaml"
    if HydraConfig.get().mode == RunMode.MULTIRUN and path.is_file():
        content = OmegaConf.to_container(OmegaConf.load(path))
        if masked(content) != content:
            OmegaConf.save(OmegaConf.create(masked(content)), path)


def _optimized(cfg: DictConfig) -> float | None:
    if cfg.demo:
        from nlnet.data.synthetic.make import built_in
        from nlnet.distributed import print_once

        data = f"built-in synthetic {built_in(cfg.data.dataset).samples}"
        print_once(f"DEMO: no shards are configured; {cfg.model.name} trains on {data}, for a minute or two")
    # Not before: Lightning takes seconds to import, and a mistake in the configuration is answered at once.
    from nlnet.runs.train import train

    metrics, _ = train(cfg)
    value = metrics.get(cfg.optimized_metric)
    if value is None and cfg.train and not cfg.trainer.get("fast_dev_run"):
        raise UserError(f"optimized_metric={cfg.optimized_metric}: this run logged {', '.join(sorted(metrics))}")
    return value


def main() -> None:
    """The console command `nlnet-train`."""
    sys.argv[1:] = current_overrides(sys.argv[1:])
    run(_job)
