"""`python src/train.py experiment=...`: compose, train, return the figure that a sweeper optimises."""

import os

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from nlnet.cli.errors import run
from nlnet.errors import UserError
from nlnet.runs.demo import finish_config
from nlnet.runs.paths import config_dir


@hydra.main(config_path=config_dir(), config_name="train", version_base="1.3")
def _job(cfg: DictConfig) -> float | None:
    # Within Hydra's job too, which would report an error in its own words before passing it on.
    return run(lambda: _optimized(finish_config(cfg, list(HydraConfig.get().overrides.task))))


def _optimized(cfg: DictConfig) -> float | None:
    if cfg.demo and not any(int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        data = f"built-in synthetic {'images' if cfg.task.kind == 'detection' else 'clips'}"
        print(f"DEMO: no shards are configured; {cfg.model.name} trains on {data}, for a minute or two", flush=True)
    # Not before: Lightning takes seconds to import, and a mistake in the configuration is answered at once.
    from nlnet.runs.training import train

    figures, _ = train(cfg)
    value = figures.get(cfg.optimized_metric)
    if value is None and cfg.train and not cfg.trainer.get("fast_dev_run"):
        raise UserError(f"optimized_metric={cfg.optimized_metric}: this run logged {', '.join(sorted(figures))}")
    return value


def main() -> None:
    """The console command `nlnet-train`."""
    run(_job)
