"""`python src/eval.py ckpt_path=...`: repeat a run's validation, or test it as in the paper."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from nlnet.cli.errors import run
from nlnet.errors import UserError, nearest
from nlnet.evaluation.predictions import FILE
from nlnet.runs.config import compose, groups, keys
from nlnet.runs.converted import converted_config
from nlnet.runs.protocol import is_protocol, protocol_config

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
    run(lambda: _evaluated(load_run_config(arguments)))


def _evaluated(cfg: DictConfig) -> dict[str, float]:
    # Not before: Lightning takes seconds to import, and a mistake in the configuration is answered at once.
    from nlnet.runs.evaluating import evaluate

    return evaluate(cfg)
