"""`python src/train.py experiment=...`: compose, train, return the metric that a sweeper optimizes."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nlnet.cli.errors import message_of, run, say_error, show_version
from nlnet.config.paths import config_dir
from nlnet.config.resolve import resolve, with_demo_size
from nlnet.config.words import read_words, split_words
from nlnet.errors import UserError
from nlnet.text import line, masked, say

_points: list[tuple[str, float | None, str | None]] = []
"""The points of a multirun that ran in this process: its words, the metric that it returned, why it failed."""


@hydra.main(config_path=config_dir(), config_name="train", version_base="1.3")
def _job(cfg: DictConfig) -> float | None:
    words = list(HydraConfig.get().overrides.task)
    # Within Hydra's job too, which would report an error in its own words before passing it on.
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return run(lambda: _optimized(resolve(cfg, words)))
    _mask_sweep()
    return _point(cfg, words) if _told_elsewhere() else run(lambda: _point(cfg, words))


def _point(cfg: DictConfig, words: list[str]) -> float | None:
    """One point of a multirun, whose mistake does not end the others."""
    value, failure = None, None
    try:
        value = _optimized(resolve(cfg, words))
    except Exception as error:
        if (failure := message_of(error)) is None:
            failure = f"{type(error).__name__}: {error}"
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            say_error(failure)
        if _told_elsewhere():
            raise UserError(failure) from error
    finally:
        _points.append((" ".join(words), value, failure))
    return value


def _told_elsewhere() -> bool:
    """Whether another than `_table` tells of failed points: a search, for which an error is an outcome, or a launcher
    that runs them in other processes and hands their errors on when all have ended."""
    hydra = HydraConfig.get()
    ours = {"basic_sweeper": hydra.sweeper, "basic_launcher": hydra.launcher}
    return any(name not in str(node.get("_target_")) for name, node in ours.items())


def _table() -> None:
    """What became of every point, and exit code 1 if one has failed."""
    failed = [failure for _, _, failure in _points if failure is not None]
    if failed:
        say(f"{len(failed)} of {len(_points)} points failed:")
        for number, (words, value, failure) in enumerate(_points):
            outcome = f"failed: {line(failure)}" if failure is not None else "" if value is None else f"{value:.4f}"
            say(f"  {number}  {words}  {outcome}")
        sys.exit(1)


def _mask_sweep() -> None:
    """Hydra keeps the command line of a sweep in a file."""
    path = Path(HydraConfig.get().sweep.dir) / "multirun.yaml"
    if path.is_file():
        content = OmegaConf.to_container(OmegaConf.load(path))
        if masked(content) != content:
            OmegaConf.save(OmegaConf.create(masked(content)), path)


def _optimized(cfg: DictConfig) -> float | None:
    if cfg.demo:
        from nlnet.config.demo import stand_in
        from nlnet.data.synthetic.make import built_in
        from nlnet.distributed import print_once

        known = built_in(stand_in(cfg))
        why = "DEMO: no shards are configured; " if known.stands_in else ""
        print_once(f"{why}{cfg.model.name} trains on built-in {known.samples}, for a minute or two")
    if cfg.train and cfg.data.get("num_workers"):
        from nlnet.data.batches.server import start_server

        start_server()
    # Not before: Lightning takes seconds to import, and a mistake in the configuration is answered at once.
    from nlnet.distributed import print_once
    from nlnet.runs.train import train

    metrics, _ = train(cfg)
    value = metrics.get(cfg.optimized_metric)
    if value is None and cfg.train and not cfg.trainer.get("fast_dev_run") and not cfg.extras.get("probe_data"):
        found = f"optimized_metric={cfg.optimized_metric}: this run logged {', '.join(sorted(metrics))}"
        if cfg.trainer.get("limit_val_batches") not in (0, 0.0):
            raise UserError(found)
        print_once(f"{found}; without a validation it returns nothing")
    return value


def main() -> None:
    """The console command `nlnet-train`."""
    run(_main)


def _main() -> None:
    flags, words = split_words(sys.argv[1:])
    if "--version" in flags:
        show_version()
        return
    if "WANDB_SWEEP_ID" in os.environ:
        from nlnet.runs.continuing.agent import resumed_words

        words = resumed_words(words)
    sys.argv[1:] = [*flags, *with_demo_size(read_words(words))]
    _points.clear()
    _job()
    _table()


if __name__ == "__main__":
    main()
