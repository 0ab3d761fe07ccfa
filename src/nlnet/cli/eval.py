"""`python src/eval.py ckpt_path=...`: repeat a run's validation from its own configuration."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from nlnet.cli.errors import run
from nlnet.cli.train import report, say
from nlnet.errors import UserError, nearest
from nlnet.models.flops import describe
from nlnet.runs import checkpoint as checkpoints
from nlnet.runs.accounting import Accounting
from nlnet.runs.config import compose, groups, keys
from nlnet.runs.quiet import quiet
from nlnet.runs.setup import make_data, make_run_dir, make_task, make_trainer
from nlnet.runs.summary import Summary

USAGE = """usage: python src/eval.py ckpt_path=RUN/checkpoints/best.ckpt [KEY=VALUE ...]

Validates a checkpoint with the configuration of its run (RUN/config.yaml); KEY=VALUE as in train.py changes it,
for instance data.shards=FOLDER, trainer=gpu, data.num_workers=8."""


def load_run_config(overrides: Sequence[str]) -> DictConfig:
    """The `config.yaml` of the checkpoint's run with `overrides` on top; `group=option` replaces a whole group."""
    parsed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(list(overrides))}
    if "ckpt_path" not in parsed:
        raise UserError(f"ckpt_path is missing\n{USAGE}")
    path = Path(str(parsed["ckpt_path"].value())).absolute()
    if not path.is_file():
        raise UserError(f"ckpt_path={path}: there is no such file")
    config = path.parents[1] / "config.yaml"
    if not config.is_file():
        raise UserError(f"ckpt_path={path}: its run's {config} is missing; evaluate the checkpoint in its run folder")
    cfg = OmegaConf.load(config)
    assert isinstance(cfg, DictConfig)
    OmegaConf.set_struct(cfg, True)
    was_demo = bool(cfg.demo)
    known_groups = set(groups())
    for key, override in parsed.items():
        if key in known_groups:
            _replace_group(cfg, key, override.input_line or "")
        else:
            _set(cfg, key, override.value())
    with open_dict(cfg):
        cfg.ckpt_path, cfg.task_name = str(path), "eval"
        cfg.paths.run_dir = None
    _refuse_a_mixture(cfg, was_demo, "data.shards" in parsed or "data" in parsed)
    return cfg


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Validate `cfg.ckpt_path`; the figures go to a run folder of their own."""
    quiet()
    started = time.monotonic()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = make_data(cfg)
    task = make_task(cfg, data)
    say(str(describe(task.net, data.clip_shape)))
    path = Path(cfg.ckpt_path)
    checkpoint = checkpoints.read(path)
    checkpoints.check_fits(checkpoint, task.state_dict(), path)
    task.load_state_dict(checkpoint["state_dict"])
    run_dir = make_run_dir(cfg)
    summary = Summary(run_dir, cfg, Accounting(data.max_skipped), task)
    summary.begin()
    cfg.callbacks = {name: node for name, node in (cfg.get("callbacks") or {}).items() if name == "progress"}
    trainer = make_trainer(cfg, [])
    summary.save_config(cfg)
    try:
        trainer.validate(task, data, verbose=False)
    finally:
        data.close()
    figures = summary.figures(trainer)
    summary.end("finished", figures, time.monotonic() - started)
    if trainer.is_global_zero:
        report(figures, task, run_dir)
    return figures


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    new = key.startswith("+")
    name = key.lstrip("+")
    if not new and OmegaConf.select(cfg, name, default=_ABSENT) is _ABSENT:
        raise UserError(f"{name}: there is no such key; {nearest(name, keys())}")
    OmegaConf.update(cfg, name, value, force_add=new)


_ABSENT = object()


def _replace_group(cfg: DictConfig, group: str, override: str) -> None:
    node = OmegaConf.select(compose([override]), group.replace("/", "."))
    with open_dict(cfg):
        OmegaConf.update(cfg, group.replace("/", "."), node, merge=False)


def _refuse_a_mixture(cfg: DictConfig, was_demo: bool, new_data: bool) -> None:
    if not was_demo and not cfg.data.shards:
        raise UserError(
            f"ckpt_path={cfg.ckpt_path} is of a real run, and data.shards is not set; its figures on built-in clips"
            " would mean nothing. Set data.shards=FOLDER_OR_URL"
        )
    if was_demo and new_data and cfg.data.shards:
        with open_dict(cfg):
            cfg.demo = False


def main() -> None:
    """The console command `nlnet-eval`."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    run(lambda: evaluate(load_run_config(arguments)))
