"""`python src/eval.py ckpt_path=...`: repeat a run's validation, or test it as in the paper."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from nlnet.cli.errors import run
from nlnet.cli.train import report, say
from nlnet.data.module import ClipDataModule
from nlnet.data.views import ViewDataModule
from nlnet.errors import UserError, nearest
from nlnet.evaluation.predictions import FILE, Predictions
from nlnet.evaluation.views import Views, training_window
from nlnet.runs import checkpoint as checkpoints
from nlnet.runs.accounting import Accounting
from nlnet.runs.config import compose, groups, keys
from nlnet.runs.converted import converted_config, run_state
from nlnet.runs.introduction import introduce
from nlnet.runs.protocol import is_protocol, protocol_config, views_of, words
from nlnet.runs.quiet import quiet
from nlnet.runs.setup import make_data, make_run_dir, make_task, make_trainer
from nlnet.runs.summary import Summary
from nlnet.tasks.classification import ClassificationTask
from nlnet.tasks.views import ViewEvaluation, center_predictions

USAGE = f"""usage: python src/eval.py ckpt_path=RUN/checkpoints/best.ckpt [protocol=NAME] [KEY=VALUE ...]

Validates a checkpoint with the configuration of its run (RUN/config.yaml); KEY=VALUE as in train.py changes it,
for instance data.shards=FOLDER, trainer=gpu, data.num_workers=8. The scores go to {FILE} in its run directory.
A file of nlnet-convert needs an experiment and shards: ckpt_path=FILE experiment=NAME data.shards=FOLDER.

protocol=center    the validation of training: one clip, one crop (default)
protocol=30view    the released test: 10 clips x 3 crops; protocol.starts=official, slowfast or mmaction2
protocol=fullconv  the paper's test: 10 clips of whole frames; protocol.scale=256 or 320"""


def load_run_config(overrides: Sequence[str]) -> DictConfig:
    """The `config.yaml` of the checkpoint's run with `overrides` on top; `group=option` replaces a whole group.

    A file of nlnet-convert has no run: it gets the configuration of a training with these `overrides`.
    """
    parsed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(list(overrides))}
    if "ckpt_path" not in parsed:
        raise UserError(f"ckpt_path is missing\n{USAGE}")
    path = Path(str(parsed["ckpt_path"].value())).absolute()
    if not path.is_file():
        raise UserError(f"ckpt_path={path}: there is no such file")
    protocol = protocol_config([o.input_line or "" for key, o in parsed.items() if is_protocol(key)])
    others = {key: o for key, o in parsed.items() if key != "ckpt_path" and not is_protocol(key)}
    config = path.parents[1] / "config.yaml"
    if config.is_file():
        cfg = _changed(config, others)
    elif found := converted_config(path, [o.input_line or "" for o in others.values()]):
        cfg = found
    else:
        raise UserError(f"ckpt_path={path}: its run's {config} is missing; evaluate the checkpoint in its run folder")
    was_demo = bool(cfg.demo)
    with open_dict(cfg):
        cfg.ckpt_path, cfg.task_name, cfg.protocol = str(path), "eval", protocol
        cfg.paths.run_dir = None
    _refuse_a_mixture(cfg, was_demo, "data.shards" in parsed or "data" in parsed)
    return cfg


def _changed(config: Path, overrides: Mapping[str, Override]) -> DictConfig:
    """A run's configuration with `overrides` on top."""
    cfg = OmegaConf.load(config)
    assert isinstance(cfg, DictConfig)
    OmegaConf.set_struct(cfg, True)
    known_groups = set(groups())
    for key, override in overrides.items():
        if key in known_groups:
            _replace_group(cfg, key, override.input_line or "")
        else:
            _set(cfg, key, override.value())
    return cfg


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Validate `cfg.ckpt_path`; the figures go to a run folder of their own."""
    quiet()
    started = time.monotonic()
    images = cfg.task.kind == "detection"
    if images and cfg.protocol.name != "center":
        raise UserError(f"protocol={cfg.protocol.name} is a test of videos, and this run is of images; leave it out")
    views = None if images else views_of(cfg.protocol, int(cfg.data.scale[0]))
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = make_data(cfg)
    task = make_task(cfg, data)
    for line in introduce(task, data):
        say(line)
    path = Path(cfg.ckpt_path)
    checkpoint = run_state(checkpoints.read(path))
    checkpoints.check_fits(checkpoint, task.state_dict(), path)
    task.load_state_dict(checkpoint["state_dict"])
    run_dir = make_run_dir(cfg)
    summary = Summary(run_dir, cfg, Accounting(data.max_skipped), task)
    summary.begin()
    cfg.callbacks = {name: node for name, node in (cfg.get("callbacks") or {}).items() if name in ("progress", "panel")}
    trainer = make_trainer(cfg, [])
    summary.save_config(cfg)
    try:
        predictions = None
        if images:  # whose task writes its predictions itself
            trainer.validate(task, data, verbose=False)
        else:
            predictions = _validate(trainer, task, data, views, cfg.protocol)
    finally:
        data.close()
    figures = summary.figures(trainer)
    summary.end("finished", figures, time.monotonic() - started)
    if trainer.is_global_zero:
        report(figures, task, run_dir)
        if predictions is not None:
            predictions.save(run_dir / FILE)
            say(f"  {FILE:<22} the scores of every video and view")
    return figures


def _validate(
    trainer: pl.Trainer, task: ClassificationTask, data: ClipDataModule, views: Views | None, protocol: DictConfig
) -> Predictions:
    """The test with these views; None for the validation of training."""
    keys = [sample.key for sample in data.val.samples]
    if views is None:
        trainer.validate(task, data, verbose=False)
        return center_predictions(task, keys, words(protocol, None, None))
    window = training_window(task.net, data.clip_shape)
    source = ViewDataModule(data, views.clips, views.starts)
    evaluation = ViewEvaluation(task, views, window, keys, words(protocol, views, window))
    try:
        trainer.validate(evaluation, source, verbose=False)
    finally:
        source.close()
    assert evaluation.predictions is not None
    return evaluation.predictions


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    new = key.startswith("+")
    name = key.lstrip("+")
    if not new and OmegaConf.select(cfg, name, default=_ABSENT) is _ABSENT:
        raise UserError(f"{name}: there is no such key; {nearest(name, [*keys(), *keys('eval')])}")
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
